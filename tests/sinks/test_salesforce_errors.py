"""Every row of the tables of errors, and what an error tells the operator."""

import httpx
import pytest
from salesforcesink import client_module, errors

import relay
from relay.crm import Action, find

ROW = None  # the status of a record's own error in a collection
CASES = [
    # status, code, message, action, seconds
    (401, "INVALID_SESSION_ID", "Session expired or invalid", Action.REFRESH, None),
    (401, "INVALID_AUTH_HEADER", "", Action.REFRESH, None),
    (401, "SOMETHING_ELSE", "", Action.PAUSE, None),
    (400, "UNABLE_TO_LOCK_ROW", "unable to obtain exclusive access", Action.RETRY, None),
    (ROW, "UNABLE_TO_LOCK_ROW", "unable to obtain exclusive access", Action.RETRY, None),
    (ROW, "ENTITY_IS_LOCKED", "This record is locked", Action.RETRY, None),
    (ROW, "CANNOT_UPDATE_CONVERTED_LEAD", "cannot reference converted lead", Action.DEAD, None),
    (400, "REQUEST_RUNNING_TOO_LONG", "", Action.RETRY, None),
    (
        ROW,
        "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY",
        "Trg: execution of AfterInsert caused by: UNABLE_TO_LOCK_ROW",
        Action.RETRY,
        None,
    ),
    (
        ROW,
        "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY",
        "Record Currently Unavailable: being modified",
        Action.RETRY,
        None,
    ),
    (
        ROW,
        "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY",
        "System.LimitException: Too many SOQL queries: 101",
        Action.SPLIT,
        None,
    ),
    (
        ROW,
        "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY",
        "System.LimitException: Apex CPU time limit exceeded",
        Action.SPLIT,
        None,
    ),
    (
        ROW,
        "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY",
        "System.NullPointerException",
        Action.DEAD,
        None,
    ),
    (
        403,
        "REQUEST_LIMIT_EXCEEDED",
        "ConcurrentRequests (Concurrent API Requests) Limit exceeded.",
        Action.RETRY,
        10.0,
    ),
    (403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.", Action.PAUSE, 900.0),
    (503, "SERVER_UNAVAILABLE", "", Action.RETRY, None),
    (500, "UNKNOWN_EXCEPTION", "", Action.RETRY, None),
    (ROW, "UNKNOWN_EXCEPTION", "", Action.RETRY, None),
    (500, "QUERY_TIMEOUT", "", Action.RETRY, None),
    (500, "", "", Action.RETRY, None),
    (502, "", "", Action.RETRY, None),
    (503, "", "", Action.RETRY, None),
    (504, "", "", Action.RETRY, None),
    (420, "", "", Action.RETRY, None),
    (408, "", "", Action.RETRY, None),
    (429, "", "", Action.RETRY, None),
    (ROW, "ALL_OR_NONE_OPERATION_ROLLED_BACK", "Record rolled back", Action.SPLIT, None),
    (ROW, "PROCESSING_HALTED", "", Action.SPLIT, None),
    (ROW, "DUPLICATE_VALUE", "Duplicate external id specified: 1", Action.SPLIT, None),
    (400, "DUPLICATE_VALUE", "Already a campaign member.", Action.OK, None),
    (ROW, "DUPLICATE_VALUE", "Already a campaign member.", Action.OK, None),
    (ROW, "DUPLICATE_VALUE", "duplicate value found: Loyalty__c duplicates", Action.DEAD, None),
    (300, "", "", Action.DEAD, None),
    (ROW, "DUPLICATE_EXTERNAL_ID", "more than one record found", Action.DEAD, None),
    (ROW, "DUPLICATES_DETECTED", "Use one of these records?", Action.FIX, None),
    (ROW, "REQUIRED_FIELD_MISSING", "Required fields are missing", Action.FIX, None),
    (ROW, "STRING_TOO_LONG", "data value too large", Action.FIX, None),
    (ROW, "INVALID_EMAIL_ADDRESS", "", Action.FIX, None),
    (ROW, "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST", "", Action.FIX, None),
    (ROW, "INVALID_TYPE_ON_FIELD_IN_RECORD", "", Action.FIX, None),
    (ROW, "FIELD_INTEGRITY_EXCEPTION", "", Action.FIX, None),
    (ROW, "NUMBER_OUTSIDE_VALID_RANGE", "", Action.FIX, None),
    (ROW, "FIELD_CUSTOM_VALIDATION_EXCEPTION", "", Action.DEAD, None),
    (ROW, "FIELD_FILTER_VALIDATION_EXCEPTION", "", Action.DEAD, None),
    (400, "JSON_PARSER_ERROR", "", Action.DEAD, None),
    (404, "ENTITY_IS_DELETED", "entity is deleted", Action.FIX, None),
    (ROW, "INVALID_CROSS_REFERENCE_KEY", "", Action.FIX, None),
    (ROW, "MALFORMED_ID", "", Action.FIX, None),
    (ROW, "INVALID_FIELD", "Foreign key external ID: 1 not found", Action.RETRY, None),
    (400, "INVALID_FIELD", "No such column 'X' on sobject of type Contact", Action.PAUSE, None),
    (ROW, "INVALID_FIELD", "No such column 'X' on sobject of type Contact", Action.PAUSE, None),
    (ROW, "INVALID_FIELD_FOR_INSERT_UPDATE", "check the security", Action.PAUSE, None),
    (400, "INVALID_TYPE", "", Action.PAUSE, None),
    (400, "UNSUPPORTED_API_VERSION", "", Action.PAUSE, None),
    (400, "INVALID_OPERATION_WITH_EXPIRED_PASSWORD", "", Action.PAUSE, None),
    (403, "API_DISABLED_FOR_ORG", "", Action.PAUSE, None),
    (403, "API_CURRENTLY_DISABLED", "", Action.PAUSE, None),
    (403, "FUNCTIONALITY_NOT_ENABLED", "", Action.PAUSE, None),
    (400, "LOGIN_MUST_USE_SECURITY_TOKEN", "", Action.PAUSE, None),
    (403, "LOGIN_WHATEVER", "", Action.PAUSE, None),
    (403, "STORAGE_LIMIT_EXCEEDED", "", Action.PAUSE, None),
    (ROW, "STORAGE_LIMIT_EXCEEDED", "", Action.PAUSE, None),
    (403, "INSUFFICIENT_ACCESS_OR_READONLY", "", Action.PAUSE, None),
    (400, "INSUFFICIENT_ACCESS", "", Action.PAUSE, None),
    (ROW, "INSUFFICIENT_ACCESS_OR_READONLY", "", Action.DEAD, None),
    (ROW, "INSUFFICIENT_ACCESS_ON_CROSS_REFERENCE_ENTITY", "", Action.DEAD, None),
    (404, "NOT_FOUND", "The requested resource does not exist", Action.PAUSE, None),
    (410, "", "", Action.PAUSE, None),
    (405, "METHOD_NOT_ALLOWED", "", Action.PAUSE, None),
    (414, "URI_TOO_LONG", "", Action.PAUSE, None),
    (415, "", "", Action.PAUSE, None),
    (431, "", "", Action.PAUSE, None),
    (302, "", "", Action.PAUSE, None),
    (409, "", "", Action.RETRY, None),
    (412, "", "", Action.RETRY, None),
    (428, "", "", Action.RETRY, None),
    (400, "SOMETHING_NEW", "", Action.DEAD, None),
    (ROW, "SOMETHING_NEW", "", Action.DEAD, None),
]
SECRET, JWT = client_module.CLIENT_CREDENTIALS_RULES, client_module.JWT_RULES
SIGN_IN_CASES = [
    # code, message, advice for a client secret, and for a JWT
    ("invalid_grant", "no client credentials user enabled", "Run As", "Run As"),
    ("invalid_grant", "request not supported on this domain", "My Domain", "My Domain"),
    ("invalid_grant", "user hasn't approved this consumer", "pre-authorized", "jwt.username"),
    ("invalid_grant", "inactive user", "activate the app's Run As", "activate jwt.username"),
    ("invalid_grant", "invalid assertion", "My Domain", "jwt.key"),
    ("invalid_grant", "", "Run As user is active", "the clock of this machine"),
    ("invalid_grant", "login rate exceeded", "Run As user has signed in", "jwt.username has"),
    ("rate_limit_exceeded", "", "Run As user has signed in", "jwt.username has signed in"),
    ("invalid_client_id", "client identifier invalid", "client_id", "client_id"),
    ("invalid_client", "invalid client credentials", "client_secret", "jwt.key"),
    ("invalid_app_access", "user is not admin approved", "Run As user", "jwt.username"),
    ("unsupported_grant_type", "", "client credentials flow", "JWT bearer flow"),
    ("inactive_user", "", "the app's Run As user", "jwt.username"),
    ("inactive_org", "", "org", "org"),
    ("unheard_of", "", "client_secret", "client_id and jwt"),
]
RETRIED = [(503, "", ""), (429, "", ""), (400, "rate_limit_exceeded", "")]


@pytest.mark.parametrize(("status", "code", "message", "action", "after"), CASES)
def test_each_row_of_the_table(status, code, message, action, after):
    rule = find(errors.RULES, status, code, message)
    assert (rule.action, rule.after) == (action, after)


@pytest.mark.parametrize(("code", "message", "by_secret", "by_jwt"), SIGN_IN_CASES)
def test_each_row_of_signing_in_advises_what_fits_the_flow(code, message, by_secret, by_jwt):
    for rules, advice, other in ((SECRET, by_secret, "jwt"), (JWT, by_jwt, "client_secret")):
        rule = find(rules, 400, code, message)
        assert advice in rule.advice
        assert other not in rule.advice


@pytest.mark.parametrize(("status", "code", "message"), RETRIED)
def test_signing_in_is_tried_again_where_that_helps(status, code, message):
    assert {find(rules, status, code, message).action for rules in (SECRET, JWT)} == {Action.RETRY}


def test_there_is_no_row_without_a_case():
    met = {id(find(errors.RULES, *case[:3])) for case in CASES}
    assert [rule for rule in errors.RULES if id(rule) not in met] == []
    tried = [*RETRIED, *((400, *case[:2]) for case in SIGN_IN_CASES)]
    for rules in (SECRET, JWT):
        met = {id(find(rules, *case)) for case in tried}
        assert [rule for rule in rules if id(rule) not in met] == []


def test_there_is_no_code_without_a_case():
    named = set().union(*(rule.code or () for rule in errors.RULES))
    tried = {case[1] for case in CASES}
    # Of these several mean the same, and one was tried.
    assert {code for code in named - tried if not code.startswith("LOGIN_")} == set()


def test_whatever_pauses_says_what_to_do():
    pausing = [rule for rule in errors.RULES + SECRET + JWT if rule.action == Action.PAUSE]
    assert all(rule.advice for rule in pausing)


OUTCOMES = {
    Action.RETRY: relay.Retry,
    Action.SPLIT: relay.Retry,
    Action.DEAD: relay.Reject,
    Action.FIX: relay.Reject,
    Action.PAUSE: relay.Pause,
    Action.REFRESH: relay.Pause,
    Action.OK: relay.Delivered,
}


@pytest.mark.parametrize(("status", "code", "message", "action", "after"), CASES)
def test_each_row_as_an_outcome(status, code, message, action, after):
    outcome = errors.outcome_of_errors([errors.ApiError(status, code, message)], errors.RULES)
    assert type(outcome) is OUTCOMES[action]
    if action is not Action.OK:
        assert outcome.after == after
        assert (code or str(status)) in outcome.reason


def test_a_lost_race_for_our_key_is_tried_again_and_any_other_field_is_not():
    rules = (errors.own_key("SMS_Key__c"), *errors.RULES)
    told = "duplicate value found: {} duplicates value on record with id: 003000000000001"
    ours = errors.ApiError(None, "DUPLICATE_VALUE", told.format("SMS_Key__c"))
    other = errors.ApiError(None, "DUPLICATE_VALUE", told.format("SMS_Key__c2"))
    assert type(errors.outcome_of_errors([ours], rules)) is relay.Retry
    assert type(errors.outcome_of_errors([other], rules)) is relay.Reject


def test_a_conflict_is_tried_a_second_time_and_no_more():
    conflict = [errors.ApiError(409, "", "")]
    assert type(errors.outcome_of_errors(conflict, errors.RULES, attempt=1)) is relay.Retry
    assert type(errors.outcome_of_errors(conflict, errors.RULES, attempt=2)) is relay.Reject


def test_of_several_errors_the_gravest_decides():
    found = [
        errors.ApiError(None, "UNABLE_TO_LOCK_ROW", ""),
        errors.ApiError(None, "INVALID_FIELD", "No such column"),
        errors.ApiError(None, "STRING_TOO_LONG", ""),
    ]
    assert type(errors.outcome_of_errors(found, errors.RULES)) is relay.Pause
    assert type(errors.outcome_of_errors(found[::2], errors.RULES)) is relay.Reject


@pytest.mark.parametrize("code", ["REQUIRED_FIELD_MISSING", "SOMETHING_NEW"])
def test_what_may_be_a_mistake_of_ours_can_pause_the_sink_when_it_goes_on(code):
    """By its status: five contacts in a row with the same one pause."""
    assert errors.outcome_of_errors([errors.ApiError(None, code, "")], errors.RULES).status == 400


def test_what_is_the_records_own_fault_never_pauses():
    outcome = errors.outcome_of_errors(
        [errors.ApiError(None, "INVALID_EMAIL_ADDRESS", "")], errors.RULES
    )
    assert outcome.status is None


VALUES = ["Bob O'Neil", "bob@x", 7, None, "+12125550123", "x" * 300, "a", "red;blue"]


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("Email: invalid email address: bob@x", "Email: invalid email address: …"),
        ("bad value for restricted picklist field: Bob O'Neil", "picklist field: …"),
        (
            f"First Name: data value too large: {'x' * 255} (max length=40)",
            "First Name: data value too large: … (max length=40)",
        ),
        ("the number 212-555-0123 is taken", "the number …0123 is taken"),
        ("invalid email address: BOB@X", "invalid email address: …"),
        ("bad value for restricted picklist field: red", "picklist field: …"),
        ("a trigger says no", "a trigger says no"),
    ],
)
def test_a_reason_quotes_nothing_of_the_contact(message, told):
    reason = errors.ApiError(None, "CODE", message, ("Email",)).told(VALUES)
    assert told in reason
    assert "Email" in reason
    assert "bob@" not in reason
    assert "xx" not in reason


@pytest.mark.parametrize("part", ["data value too large: ", "a b "])
def test_an_answer_of_megabytes_is_read_at_once(part):
    entry = {"errorCode": "CODE", "message": part * (8 * 1024 * 1024 // len(part))}
    values = [f"value {number}" for number in range(50)]
    found = errors.parse_error(entry, 400)
    assert len(found.message) <= errors.LONGEST_READ
    assert len(found.told(values)) < 1000


def read(status, content):
    return errors.api_errors(httpx.Response(status, content=content))


def test_errors_of_an_answer_a_record_and_a_sign_in_are_read():
    (whole,) = read(400, b'[{"message":"m","errorCode":"INVALID_FIELD","fields":["A"]}]')
    assert whole == errors.ApiError(400, "INVALID_FIELD", "m", ("A",))
    (sign_in,) = read(400, b'{"error":"invalid_client","error_description":"d"}')
    assert sign_in == errors.ApiError(400, "invalid_client", "d")
    of_row = errors.parse_error({"statusCode": "STRING_TOO_LONG", "message": "m", "fields": []})
    assert of_row == errors.ApiError(None, "STRING_TOO_LONG", "m")


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b"null", b"[1]", b'"x"'])
def test_an_answer_that_says_nothing_has_its_status(content):
    assert read(502, content) == [errors.ApiError(502, "", "")]


@pytest.mark.parametrize("spelt", ["duplicateResult", "duplicateResut"])
def test_the_records_that_a_duplicate_rule_found_are_read_each_once(spelt):
    matches = [{"record": {"Id": "003A"}}, {"record": {"Id": "003B"}}, {"record": {"Id": "003A"}}]
    entry = {
        "statusCode": "DUPLICATES_DETECTED",
        spelt: {"matchResults": [{"matchRecords": matches}, {}, None]},
    }
    assert errors.parse_error(entry).matches == ("003A", "003B")


@pytest.mark.parametrize(
    "entry",
    [{}, {"errorCode": 7, "message": None, "fields": "x"}, {"duplicateResult": ["?"]}],
)
def test_an_entry_of_another_form_does_no_harm(entry):
    assert errors.parse_error(entry) == errors.ApiError(None, "", "")
