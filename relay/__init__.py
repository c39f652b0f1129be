"""Sumotext Relay. These names are the plugin API; everything else is the relay's own.

A name is imported when it is first used: a command that uses none of them starts sooner.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pluggy import HookimplMarker

    from relay.account import Account
    from relay.caching import short_keys
    from relay.callback.form import fold as fold_name
    from relay.callback.form import json_value as json_of
    from relay.callback.form import parameters
    from relay.callback.form import readable_body as body_of
    from relay.clock import Clock, SystemClock
    from relay.delivery.classify import outcome_of
    from relay.delivery.classify import parse_retry_after as retry_after
    from relay.delivery.http import reach, read_answer
    from relay.event import OPT_IN, OPT_OUT, Event, InvalidCallback
    from relay.event import RawCallback as Callback
    from relay.fsutil import make as make_folder
    from relay.fsutil import path_as_utf8, path_from_utf8
    from relay.fsutil import private as open_private
    from relay.fsutil import sync as sync_folder
    from relay.outcome import Delivered, NotDelivered, Outcome, Pause, Reject, Retry
    from relay.phone import Country, country, e164, national
    from relay.phone import alpha_2 as country_code
    from relay.quota import Quota
    from relay.rate_limit import StrictLimiter
    from relay.redact import NumberMatcher, mask, mask_all
    from relay.secret import AS_KEY, AS_PASSWORD, Key, Login, Password, PrivateKey
    from relay.send_context import time_left
    from relay.signing import SigningSecret, signed_headers
    from relay.signing import key_of as signing_key
    from relay.sink import Delivery, Erased, Log, Mistake, Notice, Options, Progress, Sink
    from relay.sink import in_silence as no_progress
    from relay.slices import Slices
    from relay.source import Accepted, Answer, Invalid, Outgoing, Request, Source, Unauthorized
    from relay.suggest import nearest
    from relay.templating.evaluation import EvaluationError
    from relay.templating.expressions import RecordMap, Template
    from relay.units import NUMBER, Rate, Size, sized
    from relay.urls import SECRET_HEADERS, HttpUrl, VendorUrl, check_confidential, is_confidential

    hookimpl: HookimplMarker

__all__ = [
    "AS_KEY",
    "AS_PASSWORD",
    "NUMBER",
    "OPT_IN",
    "OPT_OUT",
    "SECRET_HEADERS",
    "Accepted",
    "Account",
    "Answer",
    "Callback",
    "Clock",
    "Country",
    "Delivered",
    "Delivery",
    "Erased",
    "EvaluationError",
    "Event",
    "HttpUrl",
    "Invalid",
    "InvalidCallback",
    "Key",
    "Log",
    "Login",
    "Mistake",
    "NotDelivered",
    "Notice",
    "NumberMatcher",
    "Options",
    "Outcome",
    "Outgoing",
    "Password",
    "Pause",
    "PrivateKey",
    "Progress",
    "Quota",
    "Rate",
    "RecordMap",
    "Reject",
    "Request",
    "Retry",
    "SigningSecret",
    "Sink",
    "Size",
    "Slices",
    "Source",
    "StrictLimiter",
    "SystemClock",
    "Template",
    "Unauthorized",
    "VendorUrl",
    "body_of",
    "check_confidential",
    "country",
    "country_code",
    "e164",
    "fold_name",
    "hookimpl",
    "is_confidential",
    "json_of",
    "make_folder",
    "mask",
    "mask_all",
    "national",
    "nearest",
    "no_progress",
    "open_private",
    "outcome_of",
    "parameters",
    "path_as_utf8",
    "path_from_utf8",
    "reach",
    "read_answer",
    "retry_after",
    "short_keys",
    "signed_headers",
    "signing_key",
    "sized",
    "sync_folder",
    "time_left",
]

_HOMES = {
    "AS_KEY": "relay.secret:AS_KEY",
    "AS_PASSWORD": "relay.secret:AS_PASSWORD",
    "Accepted": "relay.source:Accepted",
    "Account": "relay.account:Account",
    "Answer": "relay.source:Answer",
    "Callback": "relay.event:RawCallback",
    "Clock": "relay.clock:Clock",
    "Country": "relay.phone:Country",
    "Delivered": "relay.outcome:Delivered",
    "Delivery": "relay.sink:Delivery",
    "Erased": "relay.sink:Erased",
    "EvaluationError": "relay.templating.evaluation:EvaluationError",
    "Event": "relay.event:Event",
    "HttpUrl": "relay.urls:HttpUrl",
    "Invalid": "relay.source:Invalid",
    "InvalidCallback": "relay.event:InvalidCallback",
    "Key": "relay.secret:Key",
    "Log": "relay.sink:Log",
    "Login": "relay.secret:Login",
    "Mistake": "relay.sink:Mistake",
    "NUMBER": "relay.units:NUMBER",
    "NotDelivered": "relay.outcome:NotDelivered",
    "Notice": "relay.sink:Notice",
    "NumberMatcher": "relay.redact:NumberMatcher",
    "OPT_IN": "relay.event:OPT_IN",
    "OPT_OUT": "relay.event:OPT_OUT",
    "Options": "relay.sink:Options",
    "Outcome": "relay.outcome:Outcome",
    "Outgoing": "relay.source:Outgoing",
    "Password": "relay.secret:Password",
    "Pause": "relay.outcome:Pause",
    "PrivateKey": "relay.secret:PrivateKey",
    "Progress": "relay.sink:Progress",
    "Quota": "relay.quota:Quota",
    "Rate": "relay.units:Rate",
    "RecordMap": "relay.templating.expressions:RecordMap",
    "Reject": "relay.outcome:Reject",
    "Request": "relay.source:Request",
    "Retry": "relay.outcome:Retry",
    "SECRET_HEADERS": "relay.urls:SECRET_HEADERS",
    "SigningSecret": "relay.signing:SigningSecret",
    "Sink": "relay.sink:Sink",
    "Size": "relay.units:Size",
    "Slices": "relay.slices:Slices",
    "Source": "relay.source:Source",
    "StrictLimiter": "relay.rate_limit:StrictLimiter",
    "SystemClock": "relay.clock:SystemClock",
    "Template": "relay.templating.expressions:Template",
    "Unauthorized": "relay.source:Unauthorized",
    "VendorUrl": "relay.urls:VendorUrl",
    "body_of": "relay.callback.form:readable_body",
    "check_confidential": "relay.urls:check_confidential",
    "country": "relay.phone:country",
    "country_code": "relay.phone:alpha_2",
    "e164": "relay.phone:e164",
    "fold_name": "relay.callback.form:fold",
    "is_confidential": "relay.urls:is_confidential",
    "json_of": "relay.callback.form:json_value",
    "make_folder": "relay.fsutil:make",
    "mask": "relay.redact:mask",
    "mask_all": "relay.redact:mask_all",
    "national": "relay.phone:national",
    "nearest": "relay.suggest:nearest",
    "no_progress": "relay.sink:in_silence",
    "open_private": "relay.fsutil:private",
    "outcome_of": "relay.delivery.classify:outcome_of",
    "parameters": "relay.callback.form:parameters",
    "path_as_utf8": "relay.fsutil:path_as_utf8",
    "path_from_utf8": "relay.fsutil:path_from_utf8",
    "reach": "relay.delivery.http:reach",
    "read_answer": "relay.delivery.http:read_answer",
    "retry_after": "relay.delivery.classify:parse_retry_after",
    "short_keys": "relay.caching:short_keys",
    "signed_headers": "relay.signing:signed_headers",
    "signing_key": "relay.signing:key_of",
    "sized": "relay.units:sized",
    "sync_folder": "relay.fsutil:sync",
    "time_left": "relay.send_context:time_left",
}
"""Where each name is defined, as `module:name`."""


if not TYPE_CHECKING:  # a type checker would take any name for one of the module

    def __getattr__(name: str) -> Any:
        if name == "hookimpl":
            value = import_module("pluggy").HookimplMarker("relay")
        elif name in _HOMES:
            module, _, attribute = _HOMES[name].partition(":")
            value = getattr(import_module(module), attribute)
        else:
            raise AttributeError(f"module 'relay' has no attribute {name!r}", name=name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
