"""What HubSpot's errors mean: a table, read from the top.

HubSpot's own guide (API reference, Error handling) names the statuses; categories and codes are
those of its answers. Codes of the relay's own are for answers that say nothing.
"""

from collections.abc import Sequence
from dataclasses import replace

from relay.crm import Action, Rule, find

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

    `renewing` says that a new token was asked for, which has limits of its own.
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
