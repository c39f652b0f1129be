"""Classifies errors of a send as outcomes, and makes whatever a plugin returns safe to store.

Reasons are read by the operator and kept in the store: of a URL they name the host alone.
"""

import re
from collections.abc import Iterable
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from itertools import islice
from typing import Any

import httpx

from relay.outcome import Delivered, Outcome, Pause, Reject, Retry
from relay.sink import Mistake, Notice

ANSWER_KEPT = 2048
"""Characters of what a receiver answered."""
LONGEST_REASON = 500
MOST_LINES = 1000
LATER = frozenset({408, 425, 429})
LONGEST_WAIT = 24 * 3600.0
"""The most seconds for which a receiver's word parks or pauses a sink."""
LONGEST_DATE = 64
"""Characters of an HTTP date; its three forms have less than 40."""
SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")
# The boundary keeps it from trying each letter of a long word.
URL = re.compile(r"((?:\b\w+:)?//)(?:[^\s/?#'\"]*@)?([^\s/?#'\"@]*)[^\s'\"]*")


def outcome_of(error: BaseException, now: float) -> Retry | Reject | Pause:
    """The outcome of a send that raised `error`; `now` is seconds since the epoch."""
    match error:
        case Retry() | Reject() | Pause():
            return error
        case httpx.HTTPStatusError():
            return _of_status(error.response, now)
        case httpx.InvalidURL() | httpx.UnsupportedProtocol() | httpx.LocalProtocolError():
            return Reject(f"the request cannot be sent: {describe(error)}")
        case _:
            return Retry(describe(error))


def sanitise(outcome: Outcome) -> Outcome:
    """The outcome without anything that the store would refuse; plugins put anything there."""
    if isinstance(outcome, Delivered):
        return Delivered(_optional_text(outcome.reference), _optional_text(outcome.note))
    fields = vars(outcome)
    outcome.reason = readable(fields.get("reason"))
    outcome.after = _positive_seconds(fields.get("after"))
    status, answer = fields.get("status"), fields.get("answer")
    outcome.status = status if isinstance(status, int) and 0 < status < 1000 else None
    outcome.answer = None if answer is None else readable(answer)
    outcome.consent = fields.get("consent") is True
    return outcome


def _optional_text(value: Any) -> str | None:
    return None if value is None else readable(value)


def readable(value: Any) -> str:
    """Any value as text that can be stored."""
    if isinstance(value, bytes):
        value = value[:ANSWER_KEPT].decode(errors="replace")
    if isinstance(value, BaseException):
        value = describe(value)
    try:
        text = str(value)
    except Exception:  # noqa: BLE001  a plugin's class may raise anything
        text = type(value).__name__
    return text[:ANSWER_KEPT].encode(errors="replace").decode()


def lines(found: Any) -> list[str]:
    """The lines of what `check` or `setup` returned, which may be one text in place of a list."""
    each_of = [found] if isinstance(found, str) else found or ()
    return [_line(each) for each in islice(each_of, MOST_LINES)]


def split_notices(found: Iterable[str]) -> tuple[list[str], list[str]]:
    """Split the lines of a check into its problems and its notices."""
    listed = list(found)
    notices: list[str] = [each for each in listed if isinstance(each, Notice)]
    return [each for each in listed if not isinstance(each, Notice)], notices


def _line(value: Any) -> str:
    text = readable(value)
    kind = next((each for each in (Mistake, Notice) if isinstance(value, each)), str)
    return kind(text)


def _positive_seconds(value: Any) -> float | None:
    """None for what is no positive number: trying again at once would never end."""
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return min(seconds, LONGEST_WAIT) if seconds > 0 else None


def _of_status(response: httpx.Response, now: float) -> Retry | Reject | Pause:
    status = response.status_code
    reason = f"{status} {_phrase(status)}".rstrip()
    answer = _answer_text(response)
    if status in LATER or status >= 500:
        after = parse_retry_after(response.headers.get("retry-after"), now)
        return Retry(reason, after, status=status, answer=answer)
    if status == 401:
        advice = f"{reason}: the credentials are refused; correct them"
        return Pause(advice, status=status, answer=answer)
    if location := response.headers.get("location"):
        reason = f"{reason}: sent on to {_host(location)}, which is not followed"
    return Reject(reason, status=status, answer=answer)


def describe(error: BaseException) -> str:
    """The error's type and text, without what a URL in it may give away."""
    try:
        text = URL.sub(r"\1\2", str(error))[:LONGEST_REASON]
    except Exception:  # noqa: BLE001  a plugin's class may raise anything
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _phrase(status: int) -> str:
    """The standard phrase of a status, as that of the answer could be anything."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _host(location: str) -> str:
    try:
        return httpx.URL(location).host or "another path"
    except httpx.InvalidURL:
        return "nowhere"


def _answer_text(response: httpx.Response) -> str | None:
    """What the answer says, if the plugin has read it and it could be read."""
    try:
        return response.content[:ANSWER_KEPT].decode(errors="replace")
    except (httpx.ResponseNotRead, httpx.TransportError):
        return None


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Parse a Retry-After header: the seconds to wait, at most a day; None without a time to come.

    It is a number or an HTTP date, which is UTC in all three of its forms. `now` is seconds since
    the epoch.
    """
    if value is None:
        return None
    value = value.strip()
    seconds = (
        float(value[:LONGEST_DATE]) if SECONDS.fullmatch(value) else _seconds_until(value, now)
    )
    return min(seconds, LONGEST_WAIT) if seconds > 0 else None


def _seconds_until(date: str, now: float) -> float:
    if len(date) > LONGEST_DATE:
        return 0.0
    try:
        moment = parsedate_to_datetime(date)
        # Python reads asctime and -0000 without a zone; `timestamp` would then take the local one.
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return 0.0
