"""A problem: one error as HubSpot tells it, of a whole request or of one record in it.

Only `category`, `message` and `correlationId` are sure to be there, and what is wrong with
which property stands now in `errors`, now as JSON inside the message: both are read.
"""

import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

import relay
from relay import Outcome
from relay.crm import Action, Rule, redacted

from .errors import NO_ANSWER, NO_WORD, OF_VALUES, rule_of

LIST_BEGINS, LIST_ENDS = re.compile(r"\[\s*\{"), re.compile(r"\}\s*\]")
NAMED_PROPERTY = re.compile(r"propertyName=([\w-]+)|[Pp]roperty \"([\w-]+)\"")
OTHER_RECORD = re.compile(r"Existing ID: (\d{1,30})|(?<!\d)(\d{1,30}) already has that value")
PROPERTY_NAMES = ("propertyName", "propertyNames", "properties", "name", "missingProperties")
SCOPE_NAMES = ("requiredGranularScopes", "requiredScopes", "missingScopes")
SCOPE = re.compile(r"[a-z0-9_.-]{1,100}")
MOST_SCOPES = 10
RECORD_NAMES = ("objectWriteTraceId", "ids", "id", "fromObjectId", "toObjectId")
LONGEST_READ = 64 * 1024
LONGEST_FAULT = 8 * 1024
"""Characters of what an answer says, and of one error in it: an answer may have megabytes."""
MOST_FAULTS, MOST_NAMES, LONGEST_NAME = 100, 500, 1000
"""Of one error: the faults in it, and the names in each."""
SHORTEST_VALUE = 3
THROTTLED = 429
LONGEST_THROTTLE = 60.0
JITTER = 0.2


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a property, or with several."""

    code: str
    message: str
    properties: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """`named` are the trace ids, keys or record ids that it is about; `after` in seconds.

    Of the `scopes` one is missing, or several.
    """

    status: int | None
    code: str
    message: str
    rule: Rule
    faults: tuple[Fault, ...] = ()
    named: frozenset[str] = frozenset()
    scopes: tuple[str, ...] = ()
    after: float | None = None

    @property
    def other_record(self) -> str | None:
        """The id of the record that already has what this one was to have."""
        found = OTHER_RECORD.search(self._said())
        return found and (found[1] or found[2])

    def holds_all(self) -> bool:
        """Whether it says nothing about the records: others would meet the same."""
        return self.rule.action in {Action.RETRY, Action.PAUSE, Action.REFRESH}

    def outcome(self, values: Iterable[str] = ()) -> Outcome:
        """What it means for a record that is not mended; `values` are left out of its words."""
        status = self.status or None
        match self.rule.action:
            case Action.OK:
                return relay.Delivered()
            case Action.RETRY:
                return relay.Retry(self.reason(values), self._wait(), status=status)
            case Action.PAUSE | Action.REFRESH:
                return relay.Pause(self.reason(values), self._wait(), status=status)
            case _ if self.rule in OF_VALUES:
                return relay.Reject(self.reason(values))  # nothing that a pause could mend
            case _:
                return relay.Reject(self.reason(values), status=status or 400)

    def reason(self, values: Iterable[str] = ()) -> str:
        """What HubSpot says, and what to do about it, without anything of the contact."""
        told = [f"{fault.code} {', '.join(fault.properties)}".strip() for fault in self.faults]
        words = "; ".join(fault.message for fault in self.faults) or self.message
        head = " ".join(str(part) for part in (self.status, *(told or [self.code])) if part)
        said = ": ".join(part for part in (head, hidden(words, values)) if part)
        if self.scopes:
            said = f"{said.rstrip('.')} ({', '.join(self.scopes)})"
        if self.other_record:  # masked above, as it looks like a number
            said = f"{said} (record {self.other_record})"
        return f"{said.rstrip('.')}: {self.rule.advice}" if self.rule.advice else said

    def _said(self) -> str:
        return "\n".join([self.message, *(fault.message for fault in self.faults)])

    def _wait(self) -> float | None:
        """HubSpot's own word where there is one; else the table's, a little spread."""
        if self.status == THROTTLED and self.rule.action is Action.PAUSE:
            return self.rule.after
        if self.after is not None and self.status == THROTTLED:
            return min(self.after, LONGEST_THROTTLE)
        if self.after is not None:
            return self.after
        if self.rule.after is None or self.status != THROTTLED:
            return self.rule.after
        return self.rule.after * (1 + JITTER * random.random())  # noqa: S311  no secret


def no_answer(reason: str) -> Problem:
    """The request was sent, perhaps done, and nothing came back."""
    return Problem(None, "", reason, rule_of(None, [NO_ANSWER], ""))


def no_word() -> Problem:
    """The request was answered as done, and this record is in neither list."""
    words = "answered 2xx without a word about this record"
    return Problem(None, "", words, rule_of(None, [NO_WORD], ""))


def every_one(problem: Problem) -> relay.Pause:
    """Where record after record is refused alone, the mistake is not in them."""
    return relay.Pause(f"each record is refused: {problem.reason()}", status=problem.status)


def read(status: int | None, error: Any, after: float | None = None) -> Problem:
    """An error's body, or one of the `errors` of a 207 (which has no status of its own)."""
    body = _mapping(error)
    message = str(body.get("message") or body.get("error_description") or "")[:LONGEST_READ]
    begin, end = _embedded_at(message)
    faults = tuple(_faults(body, message[begin:end])) or tuple(_unlisted(body, message))
    codes = [*(fault.code for fault in faults), *_codes(body)]
    said = "\n".join([message, *(fault.message for fault in faults)])
    return Problem(
        status=status,
        code=next((code for code in codes if code), ""),
        message=(message[:begin] + message[end:]).rstrip(": "),
        rule=rule_of(status, codes, said),
        faults=faults,
        named=frozenset(_strings(body.get("context"), RECORD_NAMES)),
        scopes=tuple(sorted(_scopes(body))[:MOST_SCOPES]),
        after=after,
    )


def hidden(words: str, values: Iterable[str]) -> str:
    """The words without the record's values and with numbers masked."""
    quoted = (each.strip() for each in values)
    return redacted(words, (each for each in quoted if len(each) >= SHORTEST_VALUE))


def _scopes(body: Mapping[str, Any]) -> set[str]:
    """Those that are missing, any of which may do: HubSpot's specifications have two places."""
    listed = [body, *map(_mapping, _list(body.get("errors"))[:MOST_FAULTS])]
    told = (scope for each in listed for scope in _strings(each.get("context"), SCOPE_NAMES))
    return {scope for scope in told if SCOPE.fullmatch(scope)}


def _codes(body: Mapping[str, Any]) -> list[str]:
    """From the particular to the general."""
    names = ("policyName", "subCategory", "category", "errorType", "status", "error")
    found = [body.get(name) for name in names]
    return [code for code in found if isinstance(code, str) and code not in {"", "error"}]


def _faults(body: Mapping[str, Any], embedded: str) -> Iterator[Fault]:
    listed = [_mapping(each) for each in _list(body.get("errors"))[:MOST_FAULTS]]
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for each in [*listed, *_embedded(embedded)[:MOST_FAULTS]]:
        fault = _fault(each)
        if fault.code and (fault.code, fault.properties) not in seen:
            seen.add((fault.code, fault.properties))
            yield fault


def _unlisted(body: Mapping[str, Any], message: str) -> Iterator[Fault]:
    """Where no list is, the envelope or its words may still name a property."""
    fault = _fault(dict(body) | {"message": message, "code": body.get("category")})
    if fault.properties:
        yield fault


def _fault(error: Mapping[str, Any]) -> Fault:
    message = str(error.get("message") or error.get("localizedErrorMessage") or "")
    message = message[:LONGEST_FAULT]
    names = [*_strings(error.get("context"), PROPERTY_NAMES), *_strings(error, ("name", "in"))]
    if not names:
        names = [first or second for first, second in NAMED_PROPERTY.findall(message)]
    code = str(error.get("code") or error.get("error") or "")
    return Fault(code, message, tuple(dict.fromkeys(names)))


def _embedded(text: str) -> list[Mapping[str, Any]]:
    """The list in `Property values were not valid: [{…}]`."""
    try:
        listed = orjson.loads(text)
    except orjson.JSONDecodeError:
        return []
    return [each for each in _list(listed) if isinstance(each, Mapping)]


def _embedded_at(message: str) -> tuple[int, int]:
    """From the first `[{` to the last `}]`. One expression for both tries each `[{` anew."""
    begins = LIST_BEGINS.search(message)
    ends = [found.end() for found in LIST_ENDS.finditer(message, begins.end() if begins else 0)]
    return (begins.start(), ends[-1]) if begins and ends else (0, 0)


def _strings(context: Any, names: Iterable[str]) -> Iterator[str]:
    """The texts under these names, each a text or a list of them."""
    if isinstance(context, Mapping):
        for name in names:
            value = context.get(name)
            yield from (
                str(each)[:LONGEST_NAME]
                for each in (value[:MOST_NAMES] if isinstance(value, list) else [value])
                if each
            )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
