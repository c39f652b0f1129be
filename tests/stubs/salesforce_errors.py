"""What the Salesforce stub says when it refuses: codes, texts, and where they stand in JSON.

An error of a whole request has its `errorCode` in a list of one; that of a row has a `statusCode`
(Salesforce REST guide, "Status Codes and Error Responses" and "sObject Collections"). The texts
are those that users of the API have recorded.
"""

from typing import Any

from starlette.responses import Response
from stubs.salesforce_mistakes import Mistake, Mistyped, Refused
from stubs.vendor import answer

# What the vendor says with a code; for the rest the code itself must do.
MESSAGES = {
    "ALL_OR_NONE_OPERATION_ROLLED_BACK": (
        "Record rolled back because not all records were valid and the request was using"
        " AllOrNone header"
    ),
    "API_CURRENTLY_DISABLED": "API is currently disabled",
    "API_DISABLED_FOR_ORG": "The REST API is not enabled for this Organization.",
    "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY": (
        "SmsTrigger: execution of BeforeInsert caused by: System.NullPointerException"
    ),
    "DUPLICATE_EXTERNAL_ID": "more than one record found for external id field",
    "DUPLICATE_VALUE": "duplicate value found: SMS_Key__c duplicates value on record with id: 003",
    "ENTITY_IS_DELETED": "entity is deleted",
    "FIELD_CUSTOM_VALIDATION_EXCEPTION": "The number may not be used",
    "INSUFFICIENT_ACCESS_ON_CROSS_REFERENCE_ENTITY": (
        "insufficient access rights on cross-reference id"
    ),
    "INSUFFICIENT_ACCESS_OR_READONLY": "insufficient access rights on object id",
    "INVALID_CROSS_REFERENCE_KEY": "invalid cross reference id",
    "INVALID_SESSION_ID": "Session expired or invalid",
    "PROCESSING_HALTED": (
        "The transaction was rolled back since another operation in the same transaction failed."
    ),
    "REQUEST_LIMIT_EXCEEDED": "TotalRequests Limit exceeded.",
    "SERVER_UNAVAILABLE": "The server is temporarily unavailable. Please try again later.",
    "STORAGE_LIMIT_EXCEEDED": "storage limit exceeded",
    "UNABLE_TO_LOCK_ROW": (
        "unable to obtain exclusive access to this record or 1 records: 003Hs0000000001AAA"
    ),
    "UNKNOWN_EXCEPTION": (
        "An unexpected error occurred. Please include this ErrorId if you contact support:"
        " 1234567890-12345 (-1234567890)"
    ),
}
CONCURRENT = "ConcurrentRequests (Concurrent API Requests) Limit exceeded."


class Fault(Exception):
    """An answer that is an error of the whole request."""

    def __init__(self, status: int, code: str, message: str | None = None, **more: Any) -> None:
        super().__init__(code)
        self.answer = errors(status, code, message, **more)


def errors(status: int, code: str, message: str | None = None, **more: Any) -> Response:
    """The body of every error but those of signing in: a list of one."""
    text = MESSAGES.get(code, code) if message is None else message
    return answer(status, [{"message": text, "errorCode": code, **more}])


def nothing_here() -> Fault:
    return Fault(404, "NOT_FOUND", "The requested resource does not exist")


def not_here(name: str) -> Fault:
    text = f"The {name} field should not be specified in the sobject data."
    return Fault(400, "INVALID_FIELD", text)


def alone(refused: Refused, duplicate_key: str) -> Response:
    """The answer to a refused record that came alone."""
    return answer(400, [_single(mistake, duplicate_key) for mistake in refused.mistakes])


def _single(mistake: Mistake, duplicate_key: str) -> dict[str, Any]:
    if isinstance(mistake, Mistyped):
        return _not_parsed(mistake)
    told = {"message": mistake.message, "errorCode": mistake.code, "fields": list(mistake.fields)}
    return told | _duplicates(mistake, duplicate_key)


def _not_parsed(mistake: Mistyped) -> dict[str, Any]:
    """The vendor reads a value of the wrong type as JSON that it cannot parse."""
    token = "VALUE_STRING" if isinstance(mistake.value, str) else "VALUE_NUMBER_INT"
    text = (
        f"Cannot deserialize instance of {mistake.type} from {token} value {mistake.value}"
        " or request may be missing a required field at [line:1, column:2]"
    )
    return {"message": text, "errorCode": "JSON_PARSER_ERROR"}


def row(refused: Refused, duplicate_key: str | None) -> dict[str, Any]:
    """The result of a row that was refused."""
    return {"success": False, "errors": [_told(each, duplicate_key) for each in refused.mistakes]}


def _told(mistake: Mistake, duplicate_key: str | None) -> dict[str, Any]:
    told = {"statusCode": mistake.code, "message": mistake.message, "fields": list(mistake.fields)}
    return told | (_duplicates(mistake, duplicate_key) if duplicate_key else {})


def _duplicates(mistake: Mistake, key: str) -> dict[str, Any]:
    return {key: mistake.extra} if mistake.extra else {}


def rolled_back() -> dict[str, Any]:
    """The result of a row that nothing was wrong with."""
    code = "ALL_OR_NONE_OPERATION_ROLLED_BACK"
    return row(Refused(Mistake(code, MESSAGES[code])), None)
