"""HubSpot's errors: every row of the table, and how an error is read."""

import orjson
import pytest
from hubspotsink import module

import relay
from relay.crm import Action

errors = module("errors")


def embedded(code, name, message="it is wrong"):
    listed = [{"isValid": False, "message": message, "error": code, "name": name, "portalId": 1}]
    return f"Property values were not valid: {orjson.dumps(listed).decode()}"


def said(message, category="VALIDATION_ERROR", **more):
    return {"status": "error", "message": message, "category": category} | more


def coded(code):
    return said("wrong", errors=[{"message": "wrong", "code": code, "context": {"name": ["zip"]}}])


def limited(policy):
    return {"status": "error", "message": "You have reached it.", "policyName": policy}


TAKEN = (
    "Cannot set PropertyValueCoordinates{portalId=1, objectTypeId=0-1, propertyName=email, "
    "value=a@b.example} on 501. 502 already has that value."
)

# (row of the table as it stands there, HTTP status, body, what is done)
ROWS = [
    ("NO_ANSWER", None, {"category": "NO_ANSWER"}, Action.RETRY),
    ("NO_WORD", None, {"category": "NO_WORD"}, Action.RETRY),
    ("BAD_REFRESH_TOKEN", 400, {"status": "BAD_REFRESH_TOKEN", "message": "x"}, Action.PAUSE),
    ("invalid_grant", 400, {"error": "invalid_grant"}, Action.PAUSE),
    ("BAD_CLIENT_SECRET", 400, {"status": "BAD_CLIENT_SECRET", "message": "x"}, Action.PAUSE),
    ("day(s) ago", 401, said("expired 20543 day(s) ago.", "EXPIRED_AUTHENTICATION"), Action.PAUSE),
    (
        "EXPIRED_AUTHENTICATION",
        401,
        said("expired 3 second(s) ago.", "EXPIRED_AUTHENTICATION"),
        Action.REFRESH,
    ),
    ("401", 401, said("not found", "INVALID_AUTHENTICATION"), Action.PAUSE),
    ("MISSING_SCOPES", 403, said("no scope", "MISSING_SCOPES"), Action.PAUSE),
    ("403", 403, said("no", "BANNED"), Action.PAUSE),
    ("DAILY", 429, limited("DAILY"), Action.PAUSE),
    ("daily limit", 429, said("You have reached your daily limit.", "RATE_LIMITS"), Action.PAUSE),
    ("SECONDLY", 429, limited("SECONDLY"), Action.RETRY),
    ("429", 429, limited("TEN_SECONDLY_ROLLING"), Action.RETRY),
    ("RATE_LIMITS", None, said("limit", "RATE_LIMITS"), Action.RETRY),
    ("477", 477, said("moving", "MIGRATION_IN_PROGRESS"), Action.PAUSE),
    ("423", 423, said("locked", "LOCKED"), Action.RETRY),
    ("522", 522, {}, Action.RETRY),
    ("500", 502, {}, Action.RETRY),
    ("LOCKED", None, said("locked", "LOCKED"), Action.RETRY),
    ("408", 408, {}, Action.RETRY),
    ("OBJECT_ALREADY_EXISTS", 409, said("exists", "OBJECT_ALREADY_EXISTS"), Action.OK),
    ("Existing ID", 409, said("Contact already exists. Existing ID: 7", "CONFLICT"), Action.FIX),
    ("CONTACT_EXISTS", 409, said("exists", "CONTACT_EXISTS"), Action.FIX),
    ("already has that value", 400, said(TAKEN), Action.FIX),
    ("CONFLICT", 409, said("at the same time", "CONFLICT"), Action.RETRY),
    ("409", 409, {}, Action.RETRY),
    ("Duplicate IDs", 400, said("Duplicate IDs found in batch input: [1]."), Action.SPLIT),
    ("non-unique", 400, said("Unable to update/upsert by non-unique 0-1 property"), Action.PAUSE),
    ("infer object type", 400, said("Unable to infer object type from: x"), Action.PAUSE),
    ("404", 404, said("resource not found", "OBJECT_NOT_FOUND"), Action.PAUSE),
    ("300", 302, {}, Action.PAUSE),
    ("414", 414, {}, Action.DEAD),
    ("PROPERTY_DOESNT_EXIST", 400, said(embedded("PROPERTY_DOESNT_EXIST", "zip")), Action.FIX),
    ("MISSING_REQUIRED_PROPERTY", 400, coded("MISSING_REQUIRED_PROPERTY"), Action.FIX),
    (
        "required properties were not set",
        400,
        said("Error creating CONTACT. Some required properties were not set."),
        Action.FIX,
    ),
    ("READ_ONLY_VALUE", 400, coded("READ_ONLY_VALUE"), Action.FIX),
    ("INVALID_EMAIL", 400, coded("INVALID_EMAIL"), Action.FIX),
    ("Property values", 400, said(embedded("UNHEARD_OF", "zip")), Action.FIX),
    ("OBJECT_NOT_FOUND", None, said("resource not found", "OBJECT_NOT_FOUND"), Action.FIX),
    ("400", 400, said("something else"), Action.SPLIT),
    ("anything", 418, {}, Action.DEAD),
]


def test_every_row_of_the_table_is_tried_here():
    fitting = [errors.parse_error(status, body).rule for _, status, body, _ in ROWS]
    assert fitting == list(errors.RULES)


@pytest.mark.parametrize(("name", "status", "body", "action"), ROWS, ids=[row[0] for row in ROWS])
def test_a_row(name, status, body, action):
    assert errors.parse_error(status, body).rule.action is action


@pytest.mark.parametrize("status", [500, 502, 503, 504, 521, 523, 524, 522, 525, 526])
def test_trouble_at_hubspot_is_tried_again(status):
    assert isinstance(errors.parse_error(status, {}).outcome(), relay.Retry)


@pytest.mark.parametrize("status", [404, 405, 415, 301])
def test_a_wrong_path_pauses(status):
    found = errors.parse_error(status, {}).outcome()
    assert isinstance(found, relay.Pause)
    assert "base_url" in found.reason


@pytest.mark.parametrize(
    "code",
    [
        *sorted(errors.UNKNOWN | errors.MISSING | errors.INVALID | errors.READ_ONLY),
    ],
)
@pytest.mark.parametrize("form", ["listed", "embedded"])
def test_a_code_is_read_from_the_list_and_from_the_message(code, form):
    body = coded(code) if form == "listed" else said(embedded(code, "zip"))
    found = errors.parse_error(400, body)
    assert found.rule.action is Action.FIX
    assert [(fault.code, fault.properties) for fault in found.field_errors] == [(code, ("zip",))]


def test_a_code_that_stands_in_both_is_one_fault():
    body = said(embedded("INVALID_EMAIL", "email"), errors=coded("INVALID_EMAIL")["errors"])
    body["errors"][0]["context"] = {"propertyName": ["email"]}
    assert len(errors.parse_error(400, body).field_errors) == 1


@pytest.mark.parametrize(
    ("body", "advice"),
    [
        ({"status": "BAD_HUB", "error": "access_denied"}, "connect the app"),
        ({"status": "BAD_REFRESH_TOKEN", "error": "invalid_grant"}, "connect the app"),
        ({"error": "invalid_grant", "error_description": "x"}, "options.oauth.client_id"),
        ({"error": "invalid_grant"}, "connect the app"),
        ({"status": "BAD_CLIENT_ID"}, "the app's own id and secret"),
        ({"status": "BAD_CLIENT_SECRET"}, "the app's own id and secret"),
    ],
)
def test_a_grant_that_is_refused_says_what_to_do(body, advice):
    found = errors.parse_error(400, body).outcome()
    assert isinstance(found, relay.Pause)
    assert advice in found.reason


def test_the_record_that_has_the_value_is_known():
    assert errors.parse_error(400, said(TAKEN)).other_record == "502"
    assert (
        errors.parse_error(409, said("Contact already exists. Existing ID: 77")).other_record
        == "77"
    )
    assert errors.parse_error(400, said("no")).other_record is None
    assert errors.parse_error(400, said(TAKEN)).field_errors[0].properties == ("email",)


def test_a_reason_holds_nothing_of_the_contact_and_what_to_do():
    body = said(embedded("INVALID_EMAIL", "email", "Email address ann@home is invalid"))
    reason = errors.parse_error(400, body).reason([" Ann@Home", "+12125550001"])
    assert "ann@home" not in reason
    assert "Email address … is invalid" in reason
    assert "INVALID_EMAIL email" in reason
    assert "on_invalid" in reason
    assert "5550001" not in errors.parse_error(400, said("call +12125550001")).reason()


def test_the_scopes_that_are_missing_are_told():
    body = said("no", "MISSING_SCOPES")
    body["errors"] = [
        {"message": "one of", "context": {"requiredGranularScopes": ["crm.objects.contacts.write"]}}
    ]
    assert "crm.objects.contacts.write" in errors.parse_error(403, body).reason()


@pytest.mark.parametrize("name", ["requiredGranularScopes", "missingScopes"])
@pytest.mark.parametrize("place", ["errors", "context", "coded"])
def test_the_scopes_are_told_wherever_an_error_has_them(name, place):
    """The specification has a context of the whole and one of each error, which may have a code."""
    context = {name: ["crm.lists.read", "crm.lists.write", "Something Else"]}
    error = {"message": "one of", "context": context}
    body = said("no scope. " * 40, "MISSING_SCOPES") | {
        "errors": {"errors": [error], "context": [], "coded": [error | {"code": "SCOPE"}]}[place],
        "context": context if place == "context" else {},
    }
    assert "(crm.lists.read, crm.lists.write): give" in errors.parse_error(403, body).reason()


@pytest.mark.parametrize(
    ("status", "policy", "after", "least", "most"),
    [
        (429, "TEN_SECONDLY_ROLLING", None, 10, 12),
        (429, "TEN_SECONDLY_ROLLING", 7.0, 7, 7),
        (429, "TEN_SECONDLY_ROLLING", 3600.0, 60, 60),
        (429, "SECONDLY", None, 1, 1.2),
        (429, "DAILY", None, 900, 900),
        (429, "DAILY", 5.0, 900, 900),
        (477, "", 7200.0, 7200, 7200),
        (423, "", None, 2, 2),
        (503, "", 30.0, 30, 30),
    ],
)
def test_how_long_it_waits(status, policy, after, least, most):
    found = errors.parse_error(status, limited(policy), after).outcome()
    assert least <= found.after <= most


def test_trouble_at_hubspot_does_not_hold_the_whole_sink_by_itself():
    assert errors.parse_error(503, {}).outcome().after is None


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "text",
        {"errors": "text"},
        {"errors": ["text", None, {}]},
        {"message": "[{broken"},
        {"message": 7, "category": 8, "context": []},
        {"message": "not valid: [{]}", "context": {"ids": [None, 3]}},
    ],
)
def test_an_answer_of_any_shape_is_read(body):
    assert isinstance(errors.parse_error(400, body).outcome(), relay.Reject)


@pytest.mark.parametrize("part", ["[{", "} ]", "[{ x }", "ann ", "propertyName="])
def test_an_answer_of_megabytes_is_read_at_once(part):
    """Tried anew from each of its `[{`, 8 MiB would hold up the relay for hours."""
    body = {"message": part * (8 * 1024 * 1024 // len(part))}
    values = [f"value {number}" for number in range(50)]
    assert len(errors.parse_error(400, body).reason(values)) < 1000
