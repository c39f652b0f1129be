"""Normalisation: a callback becomes an event, or is not understood."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from relay import phone
from relay.caching import short_keys
from relay.countries import alpha_2
from relay.event import TYPE_PREFIX, Event, timestamp
from relay.raw_callback import Callback
from relay.sources.consent import consent
from relay.sources.form import NotUnderstood, Pairs, parameters

__all__ = ["KINDS", "NotUnderstood", "Reader", "Source", "parameters", "understand"]

KINDS = ("web_form", "poll", "text_4_info", "message")
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
_SEPARATORS = re.compile(r"[\s_-]+")
MOST_SPELLINGS = 10
"""Ways in which one callback may write its number: each is parsed, which takes a while."""
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Source(Protocol):
    """What normalisation needs of a source's configuration."""

    @property
    def country(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def rename(self) -> Mapping[str, str]: ...


def understand(callback: Callback, source: Source, new_id: Callable[[], str]) -> Event:
    """The event that a callback makes. Raises NotUnderstood."""
    return Reader(source).read(callback, new_id)


def fold(name: str) -> str:
    """A parameter's name as it is compared."""
    return _SEPARATORS.sub("", name).lower()


class Reader:
    """Reads the callbacks of one source."""

    def __init__(self, source: Source) -> None:
        self._kind = None if source.kind == AUTO else source.kind
        self._country = alpha_2(source.country) or source.country
        self._rename = {fold(name): new for name, new in source.rename.items()}
        # Names repeat from callback to callback, so each is looked up once.
        self._cached_place = short_keys(maxsize=1024)(self._place)

    def read(self, callback: Callback, new_id: Callable[[], str]) -> Event:
        """The event that a callback makes. Raises NotUnderstood."""
        pairs = parameters(callback)
        found = self._sort(pairs)
        values = found.values
        kind = self._kind or _kind(found.names)
        if kind == "poll" and "label" not in values and len(found.unknown) == 1:
            values["label"] = found.unknown[0]
        written = values.get("country")
        country = alpha_2(written) if written else None
        mobile = _mobile(found.mobiles, country or self._country)
        short_code, keyword = values.get("short_code"), values.get("keyword")
        message = values.get("message")
        return Event(
            id=new_id(),
            source=f"/callbacks/{callback.source}",
            type=TYPE_PREFIX + kind,
            subject=_subject(short_code, keyword),
            time=timestamp(callback.received),
            data={
                "mobile": mobile,
                "country": country or phone.country(mobile, self._country),
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
            test=callback.test,
            traceparent=callback.traceparent,
        )

    def _sort(self, pairs: Pairs) -> "_Found":
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
        field = self._rename.get(fold(name), name)
        folded = fold(field)
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
    raise NotUnderstood(
        "no parameter tells the kind: smsid, carrierId, reply, lead, or key and msg"
    )


def _mobile(written: list[str], region: str) -> str:
    if not written:
        raise NotUnderstood("mobile is missing")
    number = phone.e164(written[0], region)
    if number is None:
        raise NotUnderstood(f"mobile is no number that can exist in {region}")
    spellings = set(written)
    if len(spellings) > MOST_SPELLINGS:
        raise NotUnderstood(f"mobile is written in more than {MOST_SPELLINGS} ways")
    if any(phone.e164(other, region) != number for other in spellings):
        raise NotUnderstood("mobile is there twice, and they differ")
    return number


def _subject(short_code: str | None, keyword: str | None) -> str | None:
    """CloudEvents allows no control characters in an attribute."""
    subject = "/".join(part for part in (short_code, keyword) if part)
    if not subject.isprintable():
        subject = _CONTROLS.sub("", subject)
    return subject or None
