"""The Sumotext source: its callbacks become events, or are not understood.

sources:
  sumotext: {country: US}

Consent: the words by which a contact opts out of messages, or in again.
"""

import re
import secrets
import unicodedata
from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import quote, urlencode

import pydantic

import relay
from relay import (
    OPT_IN,
    OPT_OUT,
    Callback,
    Event,
    InvalidCallback,
    country_code,
    e164,
    fold_name,
    parameters,
)
from relay import country as country_of

KINDS = ("web_form", "poll", "text_4_info", "message")
PREFIX = "com.sumotext."
AUTO = "auto"

# Names as they are compared: lower case, without spaces, `_` and `-`.
_ATTRIBUTES = {
    "mobile": "mobile",
    "country": "country",
    "shortcode": "short_code",
    "key": "keyword",
    "lead": "keyword",
    "keyword": "keyword",
    "carrier": "carrier",
    "carrierid": "carrier",
    "msg": "message",
    "smsid": "message_id",
    "reply": "reply",
    "label": "label",
}
# The first whose names are all there tells the kind.
_TELLING = (
    (("smsid",), "message"),
    (("carrierid",), "web_form"),
    (("reply",), "poll"),
    (("lead",), "text_4_info"),
    (("key", "msg"), "message"),
)
MOST_SPELLINGS = 10
"""Ways in which one callback may write its number: each is parsed, which takes a while."""
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


_COMMON = {"shortcode": "84700", "key": "SOMEKEY", "mobile": ""}
SAMPLES = {
    "web_form": {"country": "USA", **_COMMON, "carrierId": "VERIZONUS"},
    "poll": {"carrier": "VERIZONUS", **_COMMON, "key": "FB1", "reply": "A", "label": "Tampa"},
    "text_4_info": {"lead": "keyword", "mobile": "", "msg": "ServerMsg"},
    "message": {"carrier": "VERIZONUS", "smsid": "", **_COMMON, "msg": "have a nice day"},
}
"""The parameters of a callback of each kind."""


class SumotextOptions(relay.Options):
    """The options of a `sumotext` source."""

    country: relay.Country = "US"
    """The default country for numbers that are sent without one."""
    kind: Literal["auto", "web_form", "poll", "text_4_info", "message"] = "auto"
    """The kind of every callback to this source. `auto` finds it from the parameters."""
    rename: dict[str, str] = pydantic.Field(default={})
    """Other names of parameters, as in `{city: label}`."""


class Sumotext(relay.Source):
    """Reads what Sumotext sends: a query or a form of names that are spelled in many ways."""

    Options = SumotextOptions
    kinds = KINDS

    def __init__(self, name: str, options: SumotextOptions, log: relay.Log) -> None:
        super().__init__(name, options, log)
        self._kind = None if options.kind == AUTO else options.kind
        self._country = country_code(options.country) or options.country
        self._rename = {fold_name(given): new for given, new in options.rename.items()}
        # Names repeat from callback to callback, so each is looked up once.
        self._cached_place = relay.short_keys(maxsize=1024)(self._place)

    def parse(self, callback: Callback) -> Event:
        """The event that a callback makes. Raises InvalidCallback."""
        pairs = parameters(callback)
        found = self._sort(pairs)
        values = found.values
        kind = self._kind or _kind(found.names)
        if kind == "poll" and "label" not in values and len(found.unknown) == 1:
            values["label"] = found.unknown[0]
        written = values.get("country")
        country = country_code(written) if written else None
        mobile = _mobile(found.mobiles, country or self._country)
        short_code, keyword = values.get("short_code"), values.get("keyword")
        message = values.get("message")
        return self.event(
            callback,
            type=PREFIX + kind,
            subject=_subject(short_code, keyword),
            data={
                "mobile": mobile,
                "country": country or country_of(mobile, self._country),
                "short_code": short_code,
                "keyword": keyword,
                "carrier": values.get("carrier"),
                "message": message,
                "message_id": values.get("message_id"),
                "reply": values.get("reply"),
                "label": values.get("label") or None,
                "consent": consent(message) if message else None,
                "fields": found.fields,
                "parameters": [[name, value] for name, value in pairs],
            },
        )

    def sample(
        self,
        kind: str,
        number: str,
        values: Sequence[tuple[str, str]],
        url: str,  # noqa: ARG002  nothing is signed
    ) -> relay.Outgoing:
        """The sample's parameters, replaced and added to by `values`."""
        given = {fold_name(name) for name, _ in values}
        sample = SAMPLES[kind] | {"mobile": number}
        if kind == "message":
            sample["smsid"] = secrets.token_hex(7)
        pairs = [each for each in sample.items() if fold_name(each[0]) not in given]
        return relay.Outgoing(query=urlencode([*pairs, *values], quote_via=quote))

    def _sort(self, pairs: list[tuple[str, str]]) -> "_Found":
        """Tell the vendor's parameters from the client's own fields."""
        found = _Found()
        values, place = found.values, self._cached_place
        for name, value in pairs:
            folded, attribute, field = place(name)
            if attribute is None:
                found.unknown.append(value)
                found.add_field(field, value)
                continue
            found.names.add(folded)
            if not value:
                continue
            if attribute == "mobile":
                found.mobiles.append(value)
            elif attribute not in values:
                values[attribute] = value
            elif values[attribute] != value:
                found.add_field(field, value)
        return found

    def _place(self, name: str) -> tuple[str, str | None, str]:
        """The folded name, the vendor's attribute if it is one of those, the field's name."""
        field = self._rename.get(fold_name(name), name)
        folded = fold_name(field)
        return folded, _ATTRIBUTES.get(folded), field


class _Found:
    """The parameters of one callback, told apart."""

    __slots__ = ("fields", "mobiles", "names", "unknown", "values")

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.mobiles: list[str] = []
        self.values: dict[str, str] = {}
        self.fields: dict[str, Any] = {}
        self.unknown: list[str] = []

    def add_field(self, name: str, value: str) -> None:
        if name not in self.fields:
            self.fields[name] = value
        elif isinstance(self.fields[name], list):
            self.fields[name].append(value)
        else:
            self.fields[name] = [self.fields[name], value]


def _kind(names: set[str]) -> str:
    for telling, kind in _TELLING:
        if names.issuperset(telling):
            return kind
    raise InvalidCallback(
        "no parameter tells the kind: smsid, carrierId, reply, lead, or key and msg"
    )


def _mobile(written: list[str], region: str) -> str:
    if not written:
        raise InvalidCallback("mobile is missing")
    number = e164(written[0], region)
    if number is None:
        raise InvalidCallback(f"mobile is no number that can exist in {region}")
    spellings = set(written)
    if len(spellings) > MOST_SPELLINGS:
        raise InvalidCallback(f"mobile is written in more than {MOST_SPELLINGS} ways")
    if any(e164(other, region) != number for other in spellings):
        raise InvalidCallback("mobile is there twice, and they differ")
    return number


def _subject(short_code: str | None, keyword: str | None) -> str | None:
    """CloudEvents allows no control characters in an attribute."""
    subject = "/".join(part for part in (short_code, keyword) if part)
    if not subject.isprintable():
        subject = _CONTROLS.sub("", subject)
    return subject or None


_WORDS = {
    **dict.fromkeys(
        ("stop", "stopall", "unsubscribe", "cancel", "end", "quit", "revoke", "optout"), OPT_OUT
    ),
    **dict.fromkeys(("start", "unstop"), OPT_IN),
}
_BESIDE_WORDS = re.compile(r"[\W_]+")
LONGEST_WORD = 1600
"""Characters of a message that may be one of the words: no text message has more.

The time that normalisation takes grows with the square of a run of combining marks.
"""


def consent(message: str) -> str | None:
    """What a message that is nothing but one of the words says.

    Case, spaces and punctuation do not count, nor does the width of the letters.
    """
    message = message.strip()
    if len(message) > LONGEST_WORD:
        return None
    word = _BESIDE_WORDS.sub("", unicodedata.normalize("NFKC", message))
    return _WORDS.get(word.casefold())


@relay.hookimpl
def register_sources(register: Any) -> None:
    register("sumotext", Sumotext)
