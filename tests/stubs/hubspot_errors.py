"""What HubSpot says when it refuses: the envelope, the texts, and every row of them by name.

Statuses and categories are those of HubSpot's error handling page; the texts are as third parties
recorded them, and no contract.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

PORTAL = 123


@dataclass
class Refusal(Exception):
    """An answer that is no success. `extra` goes into the envelope as it is."""

    status: int
    category: str
    message: str
    context: dict[str, list[str]] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The answer to a whole request."""
        told = {"status": "error", "message": self.message, "correlationId": str(uuid.uuid4())}
        told |= {"category": self.category} if self.category else {}
        told |= {"errors": self.errors} if self.errors else {}
        told |= {"context": self.context} if self.context else {}
        return told | self.extra

    def row(self, traces: list[str]) -> dict[str, Any]:
        """One entry of a 207's `errors`; the rows it is about are named in its context."""
        return {
            "status": "error",
            "category": self.category,
            "message": self.message,
            "context": self.context | ({"objectWriteTraceId": traces} if traces else {}),
            "errors": self.errors,
            "links": {},
        }


@dataclass(frozen=True)
class Problem:
    """What is wrong with the value of one property."""

    code: str
    name: str
    message: str


def invalid(problems: list[Problem], *, codes: bool = True) -> Refusal:
    """Values that cannot be stored. The list stands in the message, as JSON.

    `errors[].code` may be absent, as it is for some callers: `codes=False`.
    """
    embedded = [
        {
            "isValid": False,
            "message": problem.message,
            "error": problem.code,
            "name": problem.name,
            "localizedErrorMessage": problem.message,
            "portalId": PORTAL,
        }
        for problem in problems
    ]
    details = [
        {"message": problem.message, "context": {"propertyName": [problem.name]}}
        | ({"code": problem.code} if codes else {})
        for problem in problems
    ]
    text = f"Property values were not valid: {orjson.dumps(embedded).decode()}"
    return Refusal(400, "VALIDATION_ERROR", text, errors=details)


def malformed(message: str) -> Refusal:
    """A body that cannot be read as what the endpoint takes."""
    return Refusal(400, "VALIDATION_ERROR", f"Invalid input JSON on line 1, column 1: {message}")


def unset(names: list[str]) -> Refusal:
    return malformed(f"Some required fields were not set: {_list(names)}")


def unauthenticated() -> Refusal:
    return Refusal(
        401,
        "INVALID_AUTHENTICATION",
        "Authentication credentials not found. This API supports OAuth 2.0 authentication and "
        "you can find more details at https://developers.hubspot.com/docs/methods/auth/oauth-overview",
    )


def expired(age: str, at: str) -> Refusal:
    """`age` is "N second(s)", or thousands of days for a token that is none."""
    return Refusal(
        401,
        "EXPIRED_AUTHENTICATION",
        f"The OAuth token used to make this call expired {age} ago.",
        {"expire time": [at]},
    )


def unscoped(scopes: list[str]) -> Refusal:
    return Refusal(
        403,
        "MISSING_SCOPES",
        "This app hasn't been granted all required scopes to make this call. "
        "Read more about required scopes here: https://developers.hubspot.com/scopes.",
        errors=[
            {
                "message": "One or more of the following scopes are required.",
                "context": {"requiredGranularScopes": scopes},
            }
        ],
        extra={"links": {"scopes": "https://developers.hubspot.com/scopes"}},
    )


def forbidden() -> Refusal:
    """Any other 403."""
    return Refusal(403, "FORBIDDEN", "You do not have permissions to make this call.")


def limited(policy: str, *, old: bool = False) -> Refusal:
    """`policy` is TEN_SECONDLY_ROLLING, SECONDLY or DAILY; `old` the envelope with a category."""
    told = {"errorType": "RATE_LIMIT", "policyName": policy}
    told["groupName"] = f"publicapi:private_app-api-calls-{policy.lower()}:1:{PORTAL}"
    text = f"You have reached your {policy.lower()} limit."
    return Refusal(429, "RATE_LIMITS" if old else "", text, extra={} if old else told)


def locked() -> Refusal:
    return Refusal(423, "LOCKED", "The resource is locked by another operation; try again later.")


def migrating() -> Refusal:
    return Refusal(477, "MIGRATION_IN_PROGRESS", "This account is being moved to another location.")


def not_found() -> Refusal:
    return Refusal(404, "OBJECT_NOT_FOUND", "resource not found")


def no_such_path() -> Refusal:
    return Refusal(404, "", "resource not found")


def no_such_type(name: str) -> Refusal:
    return Refusal(400, "VALIDATION_ERROR", f"Unable to infer object type from: {name}")


def not_unique(name: str, type_id: str) -> Refusal:
    message = f"Unable to perform update/upsert by non-unique {type_id} property {name}"
    return Refusal(400, "VALIDATION_ERROR", message)


def doubled(ids: list[str]) -> Refusal:
    return Refusal(
        400,
        "VALIDATION_ERROR",
        f"Duplicate IDs found in batch input: {_list(ids)}. IDs must be unique",
        {"ids": ids},
    )


def too_many(most: int) -> Refusal:
    return Refusal(
        400, "VALIDATION_ERROR", f"The maximum number of inputs supported in a batch is {most}"
    )


def conflict(existing: str, noun: str = "Contact") -> Refusal:
    return Refusal(409, "CONFLICT", f"{noun} already exists. Existing ID: {existing}")


def exists(name: str) -> Refusal:
    return Refusal(409, "OBJECT_ALREADY_EXISTS", f"A property named '{name}' already exists.")


def taken(noun: str, name: str, value: str, mine: str, theirs: str) -> Refusal:
    """A unique value that another record holds."""
    return Refusal(
        400,
        "VALIDATION_ERROR",
        f"Cannot set PropertyValueCoordinates{{portalId={PORTAL}, "
        f"objectTypeId=ObjectTypeId{{legacyObjectType={noun}}}, propertyName={name}, "
        f"value={value}}} on {mine}. {theirs} already has that value.",
    )


def missing(names: list[str], code: str = "MISSING_REQUIRED_PROPERTY") -> Refusal:
    """An administrator's rule, which the dated paths enforce from 2026-09 on."""
    details = [
        {
            "message": f"Property {name} is required",
            "code": code,
            "context": {"propertyName": [name]},
        }
        for name in names
    ]
    return Refusal(
        400, "VALIDATION_ERROR", f"Required properties are missing: {_list(names)}", errors=details
    )


def missing_v3(names: list[str], noun: str) -> Refusal:
    return Refusal(
        400,
        "VALIDATION_ERROR",
        f"Error creating {noun}. Some required properties were not set.",
        {"properties": names},
    )


def _list(names: list[str]) -> str:
    return f"[{', '.join(names)}]"


def _value(code: str, text: str) -> Callable[[str], Refusal]:
    return lambda name: invalid([Problem(code, name, text.format(name=name))])


# Rows as a test may ask for them: `stub.fault_row(CODE)`. Each takes the name of a property.
ROWS: dict[str, Callable[[str], Refusal]] = {
    "PROPERTY_DOESNT_EXIST": _value("PROPERTY_DOESNT_EXIST", 'Property "{name}" does not exist'),
    "INVALID_OPTION": _value("INVALID_OPTION", "x was not one of the allowed options: [a, b]"),
    "INVALID_EMAIL": _value("INVALID_EMAIL", "Email address x is invalid"),
    "INVALID_INTEGER": _value("INVALID_INTEGER", "x was not a valid integer."),
    "INVALID_LONG": _value("INVALID_LONG", "x was not a valid long."),
    "INVALID_DATE": _value("INVALID_DATE", "1 is at 0:0:0.1 UTC, not midnight!"),
    "READ_ONLY_VALUE": _value(
        "READ_ONLY_VALUE", '"{name}" is a read only property; its value cannot be set.'
    ),
    "MISSING_REQUIRED_PROPERTY": lambda name: missing([name]),
    "MISSING_CONDITIONAL_REQUIRED_PROPERTY": lambda name: missing(
        [name], "MISSING_CONDITIONAL_REQUIRED_PROPERTY"
    ),
    "ALREADY_HAS_VALUE": lambda name: taken("CONTACT", name, "x", "501", "502"),
    "CONFLICT": lambda _: conflict("502"),
    "CONTACT_EXISTS": lambda _: Refusal(409, "CONTACT_EXISTS", "Contact already exists"),
    "OBJECT_NOT_FOUND": lambda _: not_found(),
    "LOCKED": lambda _: locked(),
    "RATE_LIMITS": lambda _: limited("TEN_SECONDLY_ROLLING", old=True),
    "INTERNAL_ERROR": lambda _: Refusal(500, "INTERNAL_ERROR", "internal error"),
    "UNHEARD_OF": lambda name: invalid([Problem("UNHEARD_OF", name, "never seen before")]),
}


def _grant(status: str, error: str, message: str) -> Callable[[], Refusal]:
    told = {"status": status, "error": error, "error_description": message}
    return lambda: Refusal(400, "", message, extra=told)


# What the token endpoint alone says; its envelope has a status of its own.
GRANTS: dict[str, Callable[[], Refusal]] = {
    "bad_refresh_token": _grant(
        "BAD_REFRESH_TOKEN", "invalid_grant", "refresh token is invalid, expired or revoked"
    ),
    "bad_hub": _grant("BAD_HUB", "access_denied", "the hub is deleted or disconnected"),
    "bad_client_id": _grant("BAD_CLIENT_ID", "invalid_client", "missing or unknown client id"),
    "bad_client_secret": _grant(
        "BAD_CLIENT_SECRET", "invalid_client", "missing or invalid client secret"
    ),
    "bad_grant_type": _grant("BAD_GRANT_TYPE", "unsupported_grant_type", "unknown grant_type"),
    "bare_grant": lambda: Refusal(400, "", "", extra={"error": "invalid_grant"}),
    "oauth_throttle": lambda: Refusal(429, "RATE_LIMITS", "You have reached your rate limit."),
}


def _bare(code: int) -> Callable[[], Refusal]:
    categories = {403: "FORBIDDEN", 404: "OBJECT_NOT_FOUND", 409: "CONFLICT"}
    return lambda: Refusal(code, categories.get(code, ""), f"HTTP {code}")


BARE = (403, 404, 405, 408, 409, 414, 415, 500, 502, 503, 504, 521, 522, 523, 524, 525, 526)

# Answers to a whole request, by the name that `stub.fault` takes.
REFUSALS: dict[str, Callable[[], Refusal]] = {
    **{str(code): _bare(code) for code in BARE},
    "401": unauthenticated,
    "expired": lambda: expired("12 second(s)", "2026-11-23T00:00:00Z"),
    "malformed_token": lambda: expired("20543 day(s)", "1970-01-01T00:00:00Z"),
    "scopes": lambda: unscoped(["crm.objects.contacts.write"]),
    "forbidden": forbidden,
    "path_not_found": no_such_path,
    "object_not_found": not_found,
    "no_such_type": lambda: no_such_type("sms"),
    "conflict": lambda: conflict("501"),
    "exists": lambda: exists("sms_key"),
    "bad_batch": lambda: ROWS["INVALID_EMAIL"]("email"),
    "unknown_property": lambda: ROWS["PROPERTY_DOESNT_EXIST"]("gone"),
    "non_unique": lambda: not_unique("sms_key", "0-1"),
    "duplicate_ids": lambda: doubled(["14155550123"]),
    "423": locked,
    "lock_row": locked,
    "477": migrating,
    "429": lambda: limited("TEN_SECONDLY_ROLLING"),
    "throttle": lambda: limited("TEN_SECONDLY_ROLLING"),
    "throttle_old": lambda: limited("TEN_SECONDLY_ROLLING", old=True),
    "secondly": lambda: limited("SECONDLY"),
    "daily": lambda: limited("DAILY"),
    **GRANTS,
}
