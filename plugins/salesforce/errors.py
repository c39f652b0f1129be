"""The errors of Salesforce: how they are parsed, and what is done about each.

The codes are those of "Status Codes and Error Responses" (REST guide) and of `statusCode` in the
answers of sObject Collections; waits and wordings come from connectors that meet them daily.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

import relay
from relay import Outcome
from relay.crm import Action, Rule, find, redacted
from relay.crm import read_json as parse_json

QUARTER = 900.0
SEVERAL = "two records have this external id; merge them, and make the field unique"
NO_ACCESS = "give the integration user access to the object and its fields (a permission set)"
TRIGGER = "a trigger or flow of the org refuses it; see the message"
OURS = "this is a mistake in the relay: please report it"


def _codes(*codes: str) -> frozenset[str]:
    return frozenset(codes)


def _statuses(*statuses: int) -> frozenset[int]:
    return frozenset(statuses)


TRIGGERED = _codes("CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY")
DUPLICATE = _codes("DUPLICATE_VALUE")
LIMITED = _codes("REQUEST_LIMIT_EXCEEDED")
ACCESS = _codes("INSUFFICIENT_ACCESS", "INSUFFICIENT_ACCESS_OR_READONLY")
CROSS_ACCESS = _codes("INSUFFICIENT_ACCESS_ON_CROSS_REFERENCE_ENTITY")
ALL_TOO_MANY = _codes("ALL_OR_NONE_OPERATION_ROLLED_BACK", "PROCESSING_HALTED")
LOGIN = _codes(
    "API_CURRENTLY_DISABLED",
    "LOGIN_CHALLENGE_ISSUED",
    "LOGIN_DURING_RESTRICTED_DOMAIN",
    "LOGIN_DURING_RESTRICTED_TIME",
    "LOGIN_MUST_USE_SECURITY_TOKEN",
)
INVALID = _codes(
    "FIELD_INTEGRITY_EXCEPTION",
    "INVALID_EMAIL_ADDRESS",
    "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST",
    "INVALID_TYPE_ON_FIELD_IN_RECORD",
    "NUMBER_OUTSIDE_VALID_RANGE",
)
TOO_LONG = "STRING_TOO_LONG"
REFUSED = _codes(
    "FIELD_CUSTOM_VALIDATION_EXCEPTION",
    "FIELD_FILTER_VALIDATION_EXCEPTION",
    "JSON_PARSER_ERROR",
)
GONE = _codes("ENTITY_IS_DELETED", "INVALID_CROSS_REFERENCE_KEY", "MALFORMED_ID")
CONVERTED = _codes("CANNOT_UPDATE_CONVERTED_LEAD")
ONCE = _statuses(409, 412, 428)
"""These are tried a second time and no more."""

RULES = (
    Rule(
        Action.REFRESH, _statuses(401), _codes("INVALID_SESSION_ID", "INVALID_AUTH_HEADER"),
        advice="each new token is refused at once; see the session settings of the app's policy",
    ),
    # The second: a record that waits for an approval.
    Rule(Action.RETRY, code=_codes("UNABLE_TO_LOCK_ROW", "ENTITY_IS_LOCKED")),
    Rule(Action.RETRY, code=TRIGGERED, text="UNABLE_TO_LOCK_ROW"),
    Rule(Action.RETRY, code=TRIGGERED, text="Record Currently Unavailable"),
    Rule(Action.SPLIT, code=TRIGGERED, text="Too many SOQL queries"),
    Rule(Action.SPLIT, code=TRIGGERED, text="Apex CPU time limit"),
    Rule(Action.DEAD, code=TRIGGERED, advice=TRIGGER),
    Rule(Action.RETRY, code=LIMITED, text="Concurrent", after=10.0),
    Rule(
        Action.PAUSE, code=LIMITED, after=QUARTER,
        advice="the org has used up its API calls of the last 24 hours; it goes on by itself"
        " when there are some again; else ask for more, or lower quota.share",
    ),
    Rule(
        Action.RETRY,
        code=_codes(
            "QUERY_TIMEOUT",
            "REQUEST_RUNNING_TOO_LONG",
            # Without `after`, which would park the sink, and opt-outs with it, for one answer.
            "SERVER_UNAVAILABLE",
            "UNKNOWN_EXCEPTION",
        ),
    ),
    Rule(Action.RETRY, frozenset({408, 420, 429, *range(500, 600)})),
    Rule(Action.SPLIT, code=ALL_TOO_MANY),
    Rule(Action.SPLIT, code=DUPLICATE, text="Duplicate external id specified"),
    Rule(Action.OK, code=DUPLICATE, text="Already a campaign member"),
    Rule(
        Action.DEAD, code=DUPLICATE,
        advice="another record has the value in a field that is unique",
    ),
    Rule(Action.DEAD, _statuses(300), advice=SEVERAL),
    Rule(Action.DEAD, code=_codes("DUPLICATE_EXTERNAL_ID"), advice=SEVERAL),
    Rule(
        Action.FIX, code=_codes("DUPLICATES_DETECTED"),
        advice="a duplicate rule finds a person like this one: merge them, or set duplicates to"
        " allow_save or use_match",
    ),
    Rule(
        Action.FIX, code=_codes("REQUIRED_FIELD_MISSING"),
        advice="map the field, or give it a value in defaults",
    ),
    Rule(
        Action.FIX, code=_codes(TOO_LONG),
        advice="shorten it in the map, or set on_invalid to truncate",
    ),
    Rule(Action.FIX, code=INVALID, advice="correct it in the map, or set on_invalid to drop"),
    Rule(
        Action.DEAD, code=CONVERTED,
        advice="the lead has become a contact: see the option objects, [Contact, Lead]",
    ),
    Rule(Action.DEAD, code=REFUSED, advice="correct the map, or the rule in Salesforce"),
    Rule(Action.FIX, code=GONE, advice="the record that it points to is not there"),
    # What it points to can still come: the contact is written again with each attempt.
    Rule(Action.RETRY, code=_codes("INVALID_FIELD"), text="Foreign key external ID"),
    Rule(
        Action.PAUSE, code=_codes("INVALID_FIELD", "INVALID_FIELD_FOR_INSERT_UPDATE"),
        advice="correct the map, or make the field, writable for the integration user",
    ),
    Rule(Action.PAUSE, code=_codes("INVALID_TYPE"), advice="correct object, or grant access to it"),
    Rule(Action.PAUSE, code=_codes("UNSUPPORTED_API_VERSION"), advice="correct api_version"),
    Rule(
        Action.PAUSE, code=_codes("INVALID_OPERATION_WITH_EXPIRED_PASSWORD"),
        advice="renew the integration user's password, or let it never expire",
    ),
    Rule(
        Action.PAUSE, code=_codes("API_DISABLED_FOR_ORG"),
        advice='the org\'s edition has no API, or the integration user lacks "API Enabled"',
    ),
    Rule(Action.PAUSE, code=_codes("FUNCTIONALITY_NOT_ENABLED"), advice="enable it in the org"),
    Rule(Action.PAUSE, code=LOGIN, advice="see the login history of the integration user"),
    Rule(
        Action.PAUSE, code=_codes("STORAGE_LIMIT_EXCEEDED"),
        advice="the org's storage is full: make room or buy some",
    ),
    Rule(Action.PAUSE, _statuses(400, 403), ACCESS, advice=NO_ACCESS),
    Rule(Action.DEAD, code=ACCESS | CROSS_ACCESS, advice=NO_ACCESS),
    Rule(Action.PAUSE, _statuses(401, 403), advice="see the integration user and its app"),
    Rule(
        Action.PAUSE, _statuses(404, 410),
        advice="correct object, external_id or api_version, or grant access to them",
    ),
    Rule(Action.PAUSE, _statuses(405, 414, 415, 431), advice=OURS),
    Rule(
        Action.PAUSE, _statuses(301, 302, 303, 307, 308),
        advice="sent on to somewhere else, which is not followed; correct login_url",
    ),
    Rule(Action.RETRY, ONCE),
    Rule(Action.DEAD),
)  # fmt: skip

SUSPICIOUS = _codes(
    "DUPLICATE_EXTERNAL_ID",
    "INSUFFICIENT_ACCESS",
    "INSUFFICIENT_ACCESS_ON_CROSS_REFERENCE_ENTITY",
    "INSUFFICIENT_ACCESS_OR_READONLY",
    "REQUIRED_FIELD_MISSING",
)
"""A single record can meet them; where one contact after the other does, something is wrong."""


MOVED = (
    Rule(
        Action.RETRY, code=CONVERTED | GONE,
        advice="the record that was found has gone or is a contact now: it is looked for again",
    ),
)  # fmt: skip
"""Where records are found before they are written: the next attempt finds what is there then."""


def own_key(external_id: str) -> Rule:
    """Two inserts of one key at once: the one that lost finds the other's record when retried."""
    return Rule(Action.RETRY, code=DUPLICATE, text=f"duplicate value found: {external_id} ")


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
class ApiError:
    """One error as Salesforce reports it.

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


def api_errors(response: httpx.Response) -> list[ApiError]:
    """The errors of an answer that is not a success; never empty."""
    status = response.status_code
    body = read_json(response)
    found = parse_errors(body if isinstance(body, list) else [body], status)
    return found or [ApiError(status, "", "")]


def parse_errors(entries: Any, status: int | None = None) -> list[ApiError]:
    """The errors in a list of them."""
    listed = entries[:MOST_ERRORS] if isinstance(entries, list) else []
    return [parse_error(each, status) for each in listed if isinstance(each, dict)]


def parse_error(entry: Mapping[str, Any], status: int | None = None) -> ApiError:
    """One entry: a record's error has `statusCode`, an answer's `errorCode`, OAuth's `error`.

    `duplicateResut` was the vendor's own spelling for years.
    """
    code = entry.get("errorCode") or entry.get("statusCode") or entry.get("error")
    message = entry.get("message") or entry.get("error_description")
    fields = entry.get("fields")
    return ApiError(
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


def outcome_of_errors(
    found: Sequence[ApiError], rules: Sequence[Rule], values: Iterable[Any] = (), attempt: int = 1
) -> Outcome:
    """The outcome of a record with these errors, none of which is mended: the worst one's."""
    rule, worst = most_severe(found, rules)
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


def most_severe(found: Sequence[ApiError], rules: Sequence[Rule]) -> tuple[Rule, ApiError]:
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
