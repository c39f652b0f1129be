"""What an error means for a delivery: try again, never, or not before somebody acts.

Reasons are read by the operator and kept in the store: of a URL they name the host alone.
"""

import re
from collections.abc import Iterable
from http import HTTPStatus
from itertools import islice
from typing import Any

import httpx

from relay.delivery import retryafter
from relay.outcome import Delivered, Outcome, Pause, Reject, Retry
from relay.sink import Mistake, Notice

ANSWER_KEPT = 2048
"""Characters of what a receiver answered."""
LONGEST_REASON = 500
MOST_LINES = 1000
LATER = frozenset({408, 425, 429})
# The boundary keeps it from trying each letter of a long word anew.
URL = re.compile(r"((?:\b\w+:)?//)(?:[^\s/?#'\"]*@)?([^\s/?#'\"@]*)[^\s'\"]*")


def outcome_of(error: BaseException, now: float) -> Retry | Reject | Pause:
    """The outcome of a delivery that ended with `error`; `now` in seconds since the epoch."""
    match error:
        case Retry() | Reject() | Pause():
            return error
        case httpx.HTTPStatusError():
            return _of_status(error.response, now)
        case httpx.InvalidURL() | httpx.UnsupportedProtocol() | httpx.LocalProtocolError():
            return Reject(f"the request cannot be sent: {_told(error)}")
        case _:
            return Retry(_told(error))


def sound(outcome: Outcome) -> Outcome:
    """The outcome with nothing in it that the store would refuse; plugins put anything there."""
    if isinstance(outcome, Delivered):
        return Delivered(_as_text(outcome.reference), _as_text(outcome.note))
    told = vars(outcome)
    outcome.reason = readable(told.get("reason"))
    outcome.after = _seconds(told.get("after"))
    status, answer = told.get("status"), told.get("answer")
    outcome.status = status if isinstance(status, int) and 0 < status < 1000 else None
    outcome.answer = None if answer is None else readable(answer)
    outcome.consent = told.get("consent") is True
    return outcome


def _as_text(value: Any) -> str | None:
    return None if value is None else readable(value)


def readable(value: Any) -> str:
    """Whatever it is, as text that the store takes."""
    if isinstance(value, bytes):
        value = value[:ANSWER_KEPT].decode(errors="replace")
    if isinstance(value, BaseException):
        value = _told(value)
    try:
        text = str(value)
    except Exception:  # noqa: BLE001  a plugin's class may raise anything
        text = type(value).__name__
    return text[:ANSWER_KEPT].encode(errors="replace").decode()


def lines(found: Any) -> list[str]:
    """What a plugin found or did, as lines: it may return one text in place of a list."""
    each_of = [found] if isinstance(found, str) else found or ()
    return [_line(each) for each in islice(each_of, MOST_LINES)]


def divided(found: Iterable[str]) -> tuple[list[str], list[str]]:
    """The problems among the lines of a check, and its notices."""
    told = list(found)
    notices: list[str] = [each for each in told if isinstance(each, Notice)]
    return [each for each in told if not isinstance(each, Notice)], notices


def _line(value: Any) -> str:
    text = readable(value)
    kind = next((each for each in (Mistake, Notice) if isinstance(value, each)), str)
    return kind(text)


def _seconds(value: Any) -> float | None:
    """None for what is no number of seconds to come: trying again at once would never end."""
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return min(seconds, retryafter.LONGEST) if seconds > 0 else None


def _of_status(response: httpx.Response, now: float) -> Retry | Reject | Pause:
    status = response.status_code
    reason = f"{status} {_phrase(status)}".rstrip()
    answer = _beginning(response)
    if status in LATER or status >= 500:
        after = retryafter.parse(response.headers.get("retry-after"), now)
        return Retry(reason, after, status=status, answer=answer)
    if status == 401:
        advice = f"{reason}: the credentials are refused; correct them"
        return Pause(advice, status=status, answer=answer)
    if location := response.headers.get("location"):
        reason = f"{reason}: sent on to {_host(location)}, which is not followed"
    return Reject(reason, status=status, answer=answer)


def _told(error: BaseException) -> str:
    """The error's type and text, without what a URL in it may give away."""
    try:
        text = URL.sub(r"\1\2", str(error))[:LONGEST_REASON]
    except Exception:  # noqa: BLE001  a plugin's class may raise anything
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _phrase(status: int) -> str:
    """The standard's words: those of the answer could be anything."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _host(location: str) -> str:
    try:
        return httpx.URL(location).host or "another path"
    except httpx.InvalidURL:
        return "nowhere"


def _beginning(response: httpx.Response) -> str | None:
    """What the answer says, if the plugin has read it and it could be read."""
    try:
        return response.content[:ANSWER_KEPT].decode(errors="replace")
    except (httpx.ResponseNotRead, httpx.TransportError):
        return None
