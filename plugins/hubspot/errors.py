"""HubSpot's errors: how they are parsed, and what each means, as a table read from the top.

HubSpot's own guide (API reference, Error handling) names the statuses; categories and codes are
those of its answers. Codes of the relay's own are for answers that say nothing. Only `category`,
`message` and `correlationId` are always there; the wrong property is now in
`errors`, now as JSON inside the message: both are read.
"""

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

import relay
from relay import Outcome
from relay.crm import Action, Rule, find, redacted

NO_ANSWER = "NO_ANSWER"
"""The connection broke, or the answer did not come in time: it may be written or not."""
NO_WORD = "NO_WORD"
"""Answered 2xx without naming the record; HubSpot does so with requests it cannot read."""

UNKNOWN = frozenset({"PROPERTY_DOESNT_EXIST"})
MISSING = frozenset({"MISSING_REQUIRED_PROPERTY", "MISSING_CONDITIONAL_REQUIRED_PROPERTY"})
TOO_LONG = frozenset({"PROPERTY_VALUE_TOO_LONG", "INVALID_STRING_LENGTH", "VALUE_TOO_LONG"})
INVALID = TOO_LONG | {
    "INVALID_BOOLEAN",
    "INVALID_DATE",
    "INVALID_DATETIME",
    "INVALID_EMAIL",
    "INVALID_INTEGER",
    "INVALID_LONG",
    "INVALID_NAME",
    "INVALID_NUMBER",
    "INVALID_OPTION",
    "INVALID_PHONE_NUMBER",
}
READ_ONLY = frozenset({"READ_ONLY_VALUE"})
GONE = frozenset({"OBJECT_NOT_FOUND"})
EXISTS = frozenset({"CONTACT_EXISTS"})
THROTTLED = frozenset({"RATE_LIMIT", "RATE_LIMITS", "TEN_SECONDLY_ROLLING"})
DEAD_GRANT = frozenset({"BAD_REFRESH_TOKEN", "BAD_HUB"})
BARE_GRANT = frozenset({"invalid_grant"})
WRONG_APP = frozenset({"BAD_CLIENT_ID", "BAD_CLIENT_SECRET"})

ALREADY_SET = "already has that value"
EXISTING_ID = "Existing ID"
UNSET = "required properties were not set"

KEY_ADVICE = "put a working key into options.token (HubSpot: Development > Keys > Service keys)"
GRANT_ADVICE = "connect the app to the account again and put the new tokens into options.oauth"
BARE_GRANT_ADVICE = (
    "check that options.oauth.client_id is that of the app that the refresh token was given to; "
    "else connect the app to the account again and put the new tokens into options.oauth"
)
RENEWALS_ADVICE = (
    "another program renews its tokens too often with the same app: give the relay an app of its "
    "own, or a service key in options.token"
)
APP_ADVICE = "put the app's own id and secret into options.oauth (HubSpot: the app's Auth tab)"
SCOPE_ADVICE = "give the key or app the scopes that are missing"
PROPERTY_ADVICE = "make the property (relay setup), correct map, or set unknown_property: drop"
TAKEN_ADVICE = "merge the two in HubSpot, or set on_conflict: separate"
MISSING_ADVICE = "map the property, or give it a value in defaults"
INVALID_ADVICE = "on_invalid: drop sends the record without it"
READ_ONLY_ADVICE = "HubSpot fills it by itself: take it out of map"
UNIQUE_ADVICE = "id_property has to be a property made unique: relay setup makes one"
DAY_ADVICE = (
    "the account's calls for today are used up: it goes on by itself after midnight of the "
    "account's time zone; other apps of the account draw on the same calls"
)
PATH_ADVICE = "correct options.object, base_url or api_version"
MOVE_ADVICE = "HubSpot is moving this account's data: it goes on by itself"


def _statuses(*numbers: int) -> frozenset[int]:
    return frozenset(numbers)


TAKEN_VALUES = (
    Rule(Action.FIX, text=EXISTING_ID, advice=TAKEN_ADVICE),
    Rule(Action.FIX, code=EXISTS, advice=TAKEN_ADVICE),
    Rule(Action.FIX, text=ALREADY_SET, advice=TAKEN_ADVICE),
)
INVALID_VALUES = (
    Rule(Action.FIX, code=INVALID, advice=INVALID_ADVICE),
    Rule(Action.FIX, text="Property values were not valid", advice=INVALID_ADVICE),
)
OF_VALUES = frozenset({*TAKEN_VALUES, *INVALID_VALUES})
"""What people type can be the cause of these, however many there are in a row."""

RULES: tuple[Rule, ...] = (
    Rule(Action.RETRY, code=frozenset({NO_ANSWER})),
    Rule(Action.RETRY, code=frozenset({NO_WORD})),
    # Who we are and what we may do.
    Rule(Action.PAUSE, code=DEAD_GRANT, advice=GRANT_ADVICE),
    Rule(Action.PAUSE, code=BARE_GRANT, advice=BARE_GRANT_ADVICE),
    Rule(Action.PAUSE, code=WRONG_APP, advice=APP_ADVICE),
    # An expiry decades ago: not an old token but no token.
    Rule(Action.PAUSE, _statuses(401), text="day(s) ago", advice=KEY_ADVICE),
    Rule(Action.REFRESH, _statuses(401), frozenset({"EXPIRED_AUTHENTICATION"}), advice=KEY_ADVICE),
    Rule(Action.PAUSE, _statuses(401), advice=KEY_ADVICE),
    Rule(Action.PAUSE, code=frozenset({"MISSING_SCOPES"}), advice=SCOPE_ADVICE),
    Rule(Action.PAUSE, _statuses(403), advice=SCOPE_ADVICE),
    # How much we may do.
    Rule(Action.PAUSE, _statuses(429), frozenset({"DAILY"}), after=900.0, advice=DAY_ADVICE),
    Rule(Action.PAUSE, _statuses(429), text="daily limit", after=900.0, advice=DAY_ADVICE),
    Rule(Action.RETRY, _statuses(429), frozenset({"SECONDLY"}), after=1.0),
    Rule(Action.RETRY, _statuses(429), after=10.0),
    Rule(Action.RETRY, code=THROTTLED, after=10.0),
    # HubSpot itself.
    Rule(Action.PAUSE, _statuses(477), after=900.0, advice=MOVE_ADVICE),
    Rule(Action.RETRY, _statuses(423), after=2.0),
    Rule(Action.RETRY, _statuses(522, 525, 526), after=60.0),
    Rule(Action.RETRY, frozenset(range(500, 600))),
    Rule(Action.RETRY, code=frozenset({"INTERNAL_ERROR", "LOCKED"})),
    Rule(Action.RETRY, _statuses(408, 425)),
    # Another record has it already.
    Rule(Action.OK, code=frozenset({"OBJECT_ALREADY_EXISTS"})),
    *TAKEN_VALUES,
    Rule(Action.RETRY, code=frozenset({"CONFLICT"})),
    Rule(Action.RETRY, _statuses(409)),
    # The request.
    Rule(Action.SPLIT, text="Duplicate IDs found in batch input"),
    Rule(Action.PAUSE, _statuses(400), text="non-unique", advice=UNIQUE_ADVICE),
    Rule(Action.PAUSE, _statuses(400), text="infer object type", advice=PATH_ADVICE),
    Rule(Action.PAUSE, _statuses(404, 405, 415), advice=PATH_ADVICE),
    Rule(Action.PAUSE, frozenset(range(300, 400)), advice=PATH_ADVICE),
    Rule(Action.DEAD, _statuses(414)),
    # The record.
    Rule(Action.FIX, code=UNKNOWN, advice=PROPERTY_ADVICE),
    Rule(Action.FIX, code=MISSING, advice=MISSING_ADVICE),
    Rule(Action.FIX, text=UNSET, advice=MISSING_ADVICE),
    Rule(Action.FIX, code=READ_ONLY, advice=READ_ONLY_ADVICE),
    *INVALID_VALUES,
    Rule(Action.FIX, code=GONE),
    Rule(Action.SPLIT, _statuses(400)),
    Rule(Action.DEAD),
)


def of_oauth(rule: Rule, *, renewing: bool) -> Rule:
    """The rule where the sink signs in by OAuth: it has no key to put right.

    `renewing`: the request was for a new token, which has separate limits.
    """
    if rule.advice == KEY_ADVICE:
        return replace(rule, advice=GRANT_ADVICE)
    if renewing and rule.action is Action.RETRY and rule.status == _statuses(429):
        return replace(rule, advice=RENEWALS_ADVICE)
    return rule


def rule_of(status: int | None, codes: Sequence[str], message: str) -> Rule:
    """The row for an error that has several codes: the first in the table that fits any."""
    fitting = [find(RULES, status, code, message) for code in codes or ("",)]
    return min(fitting, key=RULES.index)


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
TOO_MANY = 429
LONGEST_THROTTLE = 60.0
JITTER = 0.2


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with a property, or with several."""

    code: str
    message: str
    properties: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ApiError:
    """An error of the API, of a request or of a record in it.

    `named` are the trace ids, keys or record ids that it is about; `after` is in seconds.

    Of the `scopes` one is missing, or several.
    """

    status: int | None
    code: str
    message: str
    rule: Rule
    field_errors: tuple[FieldError, ...] = ()
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
        told = [
            f"{field_error.code} {', '.join(field_error.properties)}".strip()
            for field_error in self.field_errors
        ]
        words = "; ".join(field_error.message for field_error in self.field_errors) or self.message
        head = " ".join(str(part) for part in (self.status, *(told or [self.code])) if part)
        said = ": ".join(part for part in (head, hidden(words, values)) if part)
        if self.scopes:
            said = f"{said.rstrip('.')} ({', '.join(self.scopes)})"
        if self.other_record:  # masked above, as it looks like a number
            said = f"{said} (record {self.other_record})"
        return f"{said.rstrip('.')}: {self.rule.advice}" if self.rule.advice else said

    def _said(self) -> str:
        return "\n".join(
            [self.message, *(field_error.message for field_error in self.field_errors)]
        )

    def _wait(self) -> float | None:
        """HubSpot's own word where there is one; else the table's, a little spread."""
        if self.status == TOO_MANY and self.rule.action is Action.PAUSE:
            return self.rule.after
        if self.after is not None and self.status == TOO_MANY:
            return min(self.after, LONGEST_THROTTLE)
        if self.after is not None:
            return self.after
        if self.rule.after is None or self.status != TOO_MANY:
            return self.rule.after
        return self.rule.after * (1 + JITTER * random.random())  # noqa: S311  no secret


def no_answer(reason: str) -> ApiError:
    """The request was sent, perhaps done, and nothing came back."""
    return ApiError(None, "", reason, rule_of(None, [NO_ANSWER], ""))


def not_named() -> ApiError:
    """The request was answered as done, and this record is in neither list."""
    words = "answered 2xx without a word about this record"
    return ApiError(None, "", words, rule_of(None, [NO_WORD], ""))


def each_refused(error: ApiError) -> relay.Pause:
    """Where record after record is refused alone, the mistake is not in them."""
    return relay.Pause(f"each record is refused: {error.reason()}", status=error.status)


def parse_error(status: int | None, error: Any, after: float | None = None) -> ApiError:
    """An error's body, or one of the `errors` of a 207 (which has no separate status)."""
    body = _mapping(error)
    message = str(body.get("message") or body.get("error_description") or "")[:LONGEST_READ]
    begin, end = _embedded_at(message)
    field_errors = tuple(_field_errors(body, message[begin:end])) or tuple(_unlisted(body, message))
    codes = [*(field_error.code for field_error in field_errors), *_codes(body)]
    said = "\n".join([message, *(field_error.message for field_error in field_errors)])
    return ApiError(
        status=status,
        code=next((code for code in codes if code), ""),
        message=(message[:begin] + message[end:]).rstrip(": "),
        rule=rule_of(status, codes, said),
        field_errors=field_errors,
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


def _field_errors(body: Mapping[str, Any], embedded: str) -> Iterator[FieldError]:
    listed = [_mapping(each) for each in _list(body.get("errors"))[:MOST_FAULTS]]
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for each in [*listed, *_embedded(embedded)[:MOST_FAULTS]]:
        field_error = _field_error(each)
        if field_error.code and (field_error.code, field_error.properties) not in seen:
            seen.add((field_error.code, field_error.properties))
            yield field_error


def _unlisted(body: Mapping[str, Any], message: str) -> Iterator[FieldError]:
    """Where no list is, the envelope or its words may still name a property."""
    field_error = _field_error(dict(body) | {"message": message, "code": body.get("category")})
    if field_error.properties:
        yield field_error


def _field_error(error: Mapping[str, Any]) -> FieldError:
    message = str(error.get("message") or error.get("localizedErrorMessage") or "")
    message = message[:LONGEST_FAULT]
    names = [*_strings(error.get("context"), PROPERTY_NAMES), *_strings(error, ("name", "in"))]
    if not names:
        names = [first or second for first, second in NAMED_PROPERTY.findall(message)]
    code = str(error.get("code") or error.get("error") or "")
    return FieldError(code, message, tuple(dict.fromkeys(names)))


def _embedded(text: str) -> list[Mapping[str, Any]]:
    """The list in `Property values were not valid: [{…}]`."""
    try:
        listed = orjson.loads(text)
    except orjson.JSONDecodeError:
        return []
    return [each for each in _list(listed) if isinstance(each, Mapping)]


def _embedded_at(message: str) -> tuple[int, int]:
    """From the first `[{` to the last `}]`. One expression for both would try each `[{` again."""
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


def blocked(error: ApiError) -> relay.Retry | relay.Pause:
    """Reading failed: it is no record's fault, so none is dead for it."""
    outcome = error.outcome()
    if isinstance(outcome, relay.Retry | relay.Pause):
        return outcome
    return relay.Pause(error.reason(), status=error.status)
