"""The refusal: an error as Salesforce tells it, and the outcome that it makes."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

import relay
from relay import Outcome
from relay.crm import Action, Rule, find, redacted
from relay.crm import read_json as parse_json

from .errors import ONCE, SUSPICIOUS

MOST_ITEMS = 500
"""Items of a picklist's value that an error may quote."""
MOST_ERRORS = 20
"""Errors of an answer, or of one record, that are looked at. There commonly is one."""
LONGEST_READ = 16 * 1024
"""Characters of what an answer says; it may have megabytes, and is searched for each value."""
TOO_LARGE = re.compile(r"(data value too large: ).*?( \(max length=|$)", re.DOTALL)
GRAVITY = (
    Action.PAUSE,
    Action.REFRESH,
    Action.DEAD,
    Action.FIX,
    Action.SPLIT,
    Action.RETRY,
    Action.OK,
)
"""Of a record's several errors the first of these decides."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One error as Salesforce tells it.

    `status` is that of the answer, None for a record's own error in a collection; `matches` are
    the ids of the records that a duplicate rule found.
    """

    status: int | None
    code: str
    message: str
    fields: tuple[str, ...] = ()
    matches: tuple[str, ...] = ()

    def told(self, values: Iterable[Any] = ()) -> str:
        """Code, message and fields, without these values and without numbers of contacts."""
        told = ": ".join(
            filter(None, (self.code or str(self.status), _hidden(self.message, values)))
        )
        named = [name for name in self.fields if name not in told]
        return f"{told} [{', '.join(named)}]" if named else told


def refusals(response: httpx.Response) -> list[Refusal]:
    """The errors of an answer that is not a success; never empty."""
    status = response.status_code
    body = read_json(response)
    found = errors(body if isinstance(body, list) else [body], status)
    return found or [Refusal(status, "", "")]


def errors(entries: Any, status: int | None = None) -> list[Refusal]:
    """The errors in a list of them."""
    listed = entries[:MOST_ERRORS] if isinstance(entries, list) else []
    return [refusal(each, status) for each in listed if isinstance(each, dict)]


def refusal(entry: Mapping[str, Any], status: int | None = None) -> Refusal:
    """One entry: a record's error has `statusCode`, an answer's `errorCode`, OAuth's `error`.

    `duplicateResut` was the vendor's own spelling for years.
    """
    code = entry.get("errorCode") or entry.get("statusCode") or entry.get("error")
    message = entry.get("message") or entry.get("error_description")
    fields = entry.get("fields")
    return Refusal(
        status,
        _text(code),
        _text(message)[:LONGEST_READ],
        tuple(map(_text, fields)) if isinstance(fields, list) else (),
        tuple(_matches(entry.get("duplicateResult") or entry.get("duplicateResut"))),
    )


def read_json(response: httpx.Response) -> Any:
    """The answer's JSON; None where it is none, such as a proxy's page."""
    try:
        return parse_json(response.content)
    except ValueError:
        return None


def judged(
    found: Sequence[Refusal], rules: Sequence[Rule], values: Iterable[Any] = (), attempt: int = 1
) -> Outcome:
    """The outcome of a record with these errors, none of which is mended: the worst one's."""
    rule, worst = gravest(found, rules)
    told = worst.told(values)
    reason = f"{told.rstrip('.')}; {rule.advice}" if rule.advice else told
    match rule.action:
        case Action.OK:
            return relay.Delivered()
        case Action.PAUSE | Action.REFRESH:
            return relay.Pause(reason, rule.after, status=worst.status)
        case Action.RETRY if worst.status in ONCE and attempt > 1:
            return relay.Reject(reason)
        case Action.RETRY | Action.SPLIT:
            return relay.Retry(reason, rule.after, status=worst.status)
        case _:
            known = rule is not rules[-1] and worst.code not in SUSPICIOUS
            return relay.Reject(reason, status=None if known else worst.status or 400)


def gravest(found: Sequence[Refusal], rules: Sequence[Rule]) -> tuple[Rule, Refusal]:
    """Of several errors the one that decides, with its rule."""
    ruled = [(find(rules, each.status, each.code, each.message), each) for each in found]
    return min(ruled, key=lambda pair: GRAVITY.index(pair[0].action))


def _matches(result: Any) -> Iterable[str]:
    """The ids in a `duplicateResult`, each once."""
    found: dict[str, None] = {}
    for match in _list(result, "matchResults"):
        for record in _list(match, "matchRecords"):
            inner = record.get("record") if isinstance(record, dict) else None
            if isinstance(inner, dict) and isinstance(inner.get("Id"), str):
                found[inner["Id"]] = None
    return found


def _list(value: Any, key: str) -> list[Any]:
    inner = value.get(key) if isinstance(value, dict) else None
    return inner if isinstance(inner, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _hidden(message: str, values: Iterable[Any]) -> str:
    """The message without what it quotes of the record."""
    message = TOO_LARGE.sub(r"\1…\2", message)  # what it quotes there is cut
    return redacted(message, _texts(values), whole=True)


def _texts(values: Iterable[Any]) -> set[str]:
    """All that could be quoted: each text, and of a picklist's each item. Letters are no secret."""
    texts = {value for value in values if isinstance(value, str)}
    items = {item.strip() for text in texts for item in (text, *text.split(";", MOST_ITEMS))}
    return {item for item in items if len(item) > 1}
