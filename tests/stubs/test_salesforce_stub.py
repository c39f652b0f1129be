"""The Salesforce stub is as strict as the vendor: what it would refuse is refused here."""

import asyncio
import time
from contextlib import asynccontextmanager
from datetime import timedelta

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from stubs.salesforce import Field, Refused, SalesforceStub
from stubs.salesforce_ids import full_id, new_id
from stubs.salesforce_login import JWT_GRANT
from stubs.vendor import serving

TOKEN = "/services/oauth2/token"
BASE = "/services/data/v66.0"
CONTACTS = f"{BASE}/composite/sobjects/Contact/SMS_Key__c"
EVENTS = f"{BASE}/composite/sobjects/SMS_Event__c/Event_Id__c"
SECRET = {"grant_type": "client_credentials", "client_id": "id", "client_secret": "secret"}
LIMIT = "sforce-limit-info"


@pytest.fixture
def stub():
    return SalesforceStub()


@pytest.fixture
async def org(stub):
    async with connected(stub) as client:
        yield client


@asynccontextmanager
async def connected(stub):
    """A client of the stub that has signed in."""
    async with (
        serving(stub.app) as url,
        httpx.AsyncClient(base_url=url, timeout=5, trust_env=False, verify=False) as client,
    ):
        token = (await client.post(TOKEN, data=SECRET)).json()["access_token"]
        client.headers["authorization"] = f"Bearer {token}"
        yield client


def contact(key="1", **values):
    return {"attributes": {"type": "Contact"}, "SMS_Key__c": key, "LastName": "Doe"} | values


def event(key="e1", **values):
    return {"attributes": {"type": "SMS_Event__c"}, "Event_Id__c": key} | values


async def upserted(org, *records, url=CONTACTS, every=False, **more):
    answer = await org.patch(url, json={"allOrNone": every, "records": records}, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def refused(org, *records, **more):
    """The one error of the last record."""
    result = (await upserted(org, *records, **more))[-1]
    assert result["success"] is False
    assert "id" not in result
    (error,) = result["errors"]
    return error


def told(answer):
    """Status, code and text of an answer that is an error."""
    (error,) = answer.json()
    return answer.status_code, error["errorCode"], error["message"]


# Signing in


async def test_a_token_names_the_host_of_the_data_and_does_not_say_when_it_ends(org, stub):
    answer = await org.post(TOKEN, data=SECRET)
    body = answer.json()
    assert answer.status_code == 200
    assert body["instance_url"] == str(org.base_url).rstrip("/")
    assert body["token_type"] == "Bearer"
    assert body["issued_at"].isdigit()
    assert not {"expires_in", "refresh_token"} & set(body)
    assert body["access_token"] in stub.tokens
    assert stub.sign_ins == 2


async def test_the_credentials_may_be_in_the_header(org):
    answer = await org.post(TOKEN, data={"grant_type": "client_credentials"}, auth=("id", "secret"))
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("form", "error"),
    [
        (SECRET | {"client_secret": "wrong"}, "invalid_client"),
        (SECRET | {"client_id": "wrong"}, "invalid_client_id"),
        (SECRET | {"grant_type": "password"}, "unsupported_grant_type"),
        ({}, "unsupported_grant_type"),
    ],
)
async def test_whoever_is_not_known_gets_an_object_and_no_list(org, form, error):
    answer = await org.post(TOKEN, data=form)
    assert answer.status_code == 400
    assert answer.json()["error"] == error
    assert LIMIT not in answer.headers


async def test_a_login_host_of_all_customers_knows_no_client_credentials(org, stub):
    stub.generic_hosts.add("127.0.0.1")
    answer = await org.post(TOKEN, data=SECRET)
    assert answer.status_code == 400
    assert answer.json() == {
        "error": "invalid_grant",
        "error_description": "request not supported on this domain",
    }


async def test_credentials_in_the_url_or_as_json_do_not_count(org):
    assert (await org.post(TOKEN, params=SECRET)).status_code == 400
    assert (await org.post(TOKEN, json=SECRET)).status_code == 400


async def test_signing_in_can_be_refused_and_allowed_again(org, stub):
    stub.refuse_sign_in("inactive_user")
    answer = await org.post(TOKEN, data=SECRET)
    assert (answer.status_code, answer.json()) == (400, {"error": "inactive_user"})
    stub.allow_sign_in()
    assert (await org.post(TOKEN, data=SECRET)).status_code == 200


KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PUBLIC = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def assertion(key=KEY, algorithm="RS256", **claims):
    claims = {
        "iss": "id",
        "sub": "relay@acme.example",
        "aud": "https://login.salesforce.com",
        "exp": int(time.time()) + 120,
    } | claims
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, key, algorithm)


async def test_a_signed_assertion_is_enough():
    stub = SalesforceStub(jwt_key=PUBLIC)
    async with connected(stub) as org:
        answer = await org.post(TOKEN, data={"grant_type": JWT_GRANT, "assertion": assertion()})
        assert answer.status_code == 200
        assert answer.json()["access_token"] in stub.tokens
        own = assertion(aud=str(org.base_url).rstrip("/"))
        answer = await org.post(TOKEN, data={"grant_type": JWT_GRANT, "assertion": own})
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("made", "error"),
    [
        (lambda: assertion(OTHER_KEY), "invalid_grant"),
        (lambda: assertion("x" * 32, "HS256"), "invalid_grant"),
        (lambda: assertion(None, "none"), "invalid_grant"),
        (lambda: "no assertion", "invalid_grant"),
        (lambda: assertion(iss="other"), "invalid_client_id"),
        (lambda: assertion(aud="https://acme.example"), "invalid_grant"),
        (lambda: assertion(exp=int(time.time()) + 400), "invalid_grant"),
        (lambda: assertion(exp=int(time.time()) - 1), "invalid_grant"),
        (lambda: assertion(exp=time.time() + 120), "invalid_grant"),
        (lambda: assertion(exp=None), "invalid_grant"),
        (lambda: assertion(sub="other@acme.example"), "invalid_grant"),
    ],
)
async def test_an_assertion_is_looked_at_closely(made, error):
    async with connected(SalesforceStub(jwt_key=PUBLIC)) as org:
        answer = await org.post(TOKEN, data={"grant_type": JWT_GRANT, "assertion": made()})
        assert answer.status_code == 400
        assert answer.json()["error"] == error


async def test_an_expiry_as_text_is_refused():
    """Some libraries write it so, and the vendor asks for seconds."""
    async with connected(SalesforceStub(jwt_key=PUBLIC)) as org:
        text = jwt.api_jws.encode(
            b'{"iss":"id","sub":"relay@acme.example","aud":"https://login.salesforce.com",'
            b'"exp":"%d"}' % (time.time() + 120),
            KEY,
            "RS256",
        )
        answer = await org.post(TOKEN, data={"grant_type": JWT_GRANT, "assertion": text})
        assert answer.status_code == 400


# What every data request goes through


async def test_a_session_that_is_over_gives_a_list_with_the_code(org, stub):
    stub.expire_tokens()
    assert told(await org.get(f"{BASE}/limits")) == (
        401,
        "INVALID_SESSION_ID",
        "Session expired or invalid",
    )
    token = (await org.post(TOKEN, data=SECRET)).json()["access_token"]
    assert (await org.post(TOKEN, data=SECRET)).json()["access_token"] == token
    answer = await org.get(f"{BASE}/limits", headers={"authorization": f"Bearer {token}"})
    assert answer.status_code == 200


async def test_data_is_asked_for_at_the_instance_and_nowhere_else(org, stub):
    stub.instance_url = str(org.base_url).rstrip("/").replace("127.0.0.1", "localhost")
    assert (await org.post(TOKEN, data=SECRET)).json()["instance_url"] == stub.instance_url
    assert told(await org.get(f"{BASE}/limits"))[:2] == (401, "INVALID_SESSION_ID")
    assert (await org.get(f"{stub.instance_url}{BASE}/limits")).status_code == 200


async def test_without_a_token_there_are_only_the_versions(org):
    org.headers.pop("authorization")
    answer = await org.get("/services/data/")
    assert {"label": "Spring '26", "url": BASE, "version": "66.0"} in answer.json()
    assert LIMIT not in answer.headers
    assert told(await org.get(f"{BASE}/limits"))[:2] == (401, "INVALID_AUTH_HEADER")


async def test_each_call_is_counted_and_the_last_is_refused(org, stub):
    stub.api_most = 2
    assert (await org.get(f"{BASE}/limits")).headers[LIMIT] == "api-usage=1/2"
    answer = await org.get(f"{BASE}/limits")
    assert answer.headers[LIMIT] == "api-usage=2/2"
    assert answer.json()["DailyApiRequests"] == {"Max": 2, "Remaining": 0}
    answer = await org.patch(CONTACTS, json={"records": [contact()]})
    assert told(answer) == (403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")
    assert answer.headers[LIMIT] == "api-usage=2/2"
    stub.per_app = "per-app-api-usage=17/250(appName=relay)"
    answer = await org.get(f"{BASE}/limits")
    assert answer.headers[LIMIT] == "api-usage=2/2; per-app-api-usage=17/250(appName=relay)"
    assert stub.records("Contact") == []
    assert (await org.post(TOKEN, data=SECRET)).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/services/data/v99.0/limits",
        "/services/data/66.0/limits",
        "/nothing",
        f"{BASE}/sobjects/Nothing__c/describe",
        f"{BASE}/composite/nothing/Contact",
    ],
)
async def test_what_is_not_there_is_told_in_json(org, path):
    assert told(await org.get(path))[:2] == (404, "NOT_FOUND")


async def test_a_method_that_is_not_for_this_is_refused(org):
    assert told(await org.post(CONTACTS, json={}))[:2] == (405, "METHOD_NOT_ALLOWED")


async def test_a_url_has_its_longest(org):
    answer = await org.get(f"{BASE}/query", params={"q": "x" * 17000})
    assert answer.status_code == 414


async def test_a_body_is_json_and_says_so(org):
    assert (await org.patch(CONTACTS, content=b"{}")).status_code == 415
    answer = await org.patch(
        CONTACTS, content=b"{'records'", headers={"content-type": "application/json"}
    )
    assert told(answer)[:2] == (400, "JSON_PARSER_ERROR")


# Collections


async def test_a_collection_is_answered_in_its_order(org, stub):
    await upserted(org, contact("2"))
    first, second, third = await upserted(
        org, contact("1"), contact("2", FirstName="Ann"), contact("3", LastName=None)
    )
    assert first["created"] is True
    assert second == {
        "id": stub.records("Contact")[0]["Id"],
        "success": True,
        "errors": [],
        "created": False,
    }
    assert third["errors"][0]["statusCode"] == "REQUIRED_FIELD_MISSING"
    assert [row.get("FirstName") for row in stub.records("Contact")] == ["Ann", None]
    assert stub.api_used == 2


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ([], "JSON_PARSER_ERROR"),
        ({}, "JSON_PARSER_ERROR"),
        ({"records": []}, "MISSING_ARGUMENT"),
        ({"records": [contact()], "allOrNone": "false"}, "JSON_PARSER_ERROR"),
        ({"records": [contact()], "allornone": True}, "JSON_PARSER_ERROR"),
        ({"records": [contact(str(i)) for i in range(201)]}, "EXCEEDED_ID_LIMIT"),
        ({"records": [{"SMS_Key__c": "1", "LastName": "Doe"}]}, "INVALID_TYPE"),
        ({"records": [contact(), contact("2", attributes={"type": "Lead"})]}, "INVALID_TYPE"),
        ({"records": [contact(Id="003")]}, "INVALID_FIELD"),
        ({"records": [contact(id="003")]}, "INVALID_FIELD"),
    ],
)
async def test_a_collection_of_the_wrong_form_is_refused_as_a_whole(org, stub, body, code):
    answer = await org.patch(CONTACTS, json=body)
    assert told(answer)[:2] == (400, code)
    assert answer.headers[LIMIT] == "api-usage=1/100000"
    assert stub.records("Contact") == []


async def test_two_hundred_are_taken(org, stub):
    await upserted(org, *(contact(str(number)) for number in range(200)))
    assert len(stub.records("Contact")) == 200


@pytest.mark.parametrize("field", ["Nothing__c", "LastName", "Loyalty_Number__c"])
async def test_only_an_external_id_is_a_key(org, field):
    answer = await org.patch(
        f"{BASE}/composite/sobjects/Contact/{field}", json={"records": [contact()]}
    )
    status, code, text = told(answer)
    assert (status, code) == (404, "NOT_FOUND")
    assert field in text


async def test_an_old_version_has_no_collections_to_upsert(org):
    answer = await org.patch(CONTACTS.replace("66", "45"), json={"records": [contact()]})
    assert told(answer)[:2] == (404, "NOT_FOUND")


async def test_a_row_needs_its_key(org):
    error = await refused(org, {"attributes": {"type": "Contact"}, "LastName": "Doe"})
    assert error == {
        "statusCode": "MISSING_ARGUMENT",
        "message": "SMS_Key__c not specified",
        "fields": ["SMS_Key__c"],
    }


async def test_rows_that_share_a_key_all_fail_and_the_others_do_not(org, stub):
    results = await upserted(org, contact("a"), contact("b"), contact("A"))
    assert [result["success"] for result in results] == [False, True, False]
    assert [result["errors"][0]["message"] for result in results if result["errors"]] == [
        "Duplicate external id specified: a",
        "Duplicate external id specified: A",
    ]
    assert len(stub.records("Contact")) == 1


async def test_keys_are_the_same_whatever_their_capitals_unless_the_field_tells_them_apart(
    org, stub
):
    await upserted(org, contact("abc"))
    (result,) = await upserted(org, contact("ABC"))
    assert result["created"] is False
    stub.fields["Contact"]["SMS_Key__c"] = Field(
        length=40, unique=True, external_id=True, case_sensitive=True
    )
    (result,) = await upserted(org, contact("aBC"))
    assert result["created"] is True


async def test_the_capitals_of_a_fields_name_do_not_matter(org, stub):
    url = CONTACTS.replace("SMS_Key__c", "sms_key__C")
    record = {"attributes": {"type": "Contact"}, "sms_KEY__c": "1", "lastname": "Doe"}
    (result,) = await upserted(org, record, url=url)
    assert result["success"]
    assert stub.records("Contact")[0]["SMS_Key__c"] == "1"
    results = await upserted(org, record, contact("1"))
    assert [result["success"] for result in results] == [False, False]


async def test_a_key_that_two_records_have_is_ambiguous(org, stub):
    ids = [stub.seed("Contact", {"LastName": "A", "Legacy_Id__c": "7"}) for _ in range(2)]
    record = {"attributes": {"type": "Contact"}, "Legacy_Id__c": "7", "LastName": "B"}
    url = f"{BASE}/composite/sobjects/Contact/Legacy_Id__c"
    error = await refused(org, record, url=url)
    assert error["statusCode"] == "DUPLICATE_EXTERNAL_ID"
    assert all(known in error["message"] for known in ids)
    assert {row["LastName"] for row in stub.records("Contact")} == {"A"}


@pytest.mark.parametrize(
    ("values", "code", "text"),
    [
        ({"LastName": ""}, "REQUIRED_FIELD_MISSING", "Required fields are missing: [LastName]"),
        (
            {"FirstName": "x" * 41},
            "STRING_TOO_LONG",
            f"First Name: data value too large: {'x' * 41} (max length=40)",
        ),
        (
            {"Email": "ann@"},
            "INVALID_EMAIL_ADDRESS",
            "Email: invalid email address: ann@",
        ),
        (
            {"SMS_Status__c": "Gone"},
            "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST",
            "SMS Status: bad value for restricted picklist field: Gone",
        ),
        (
            {"Birthdate": "1/1/2000"},
            "INVALID_TYPE_ON_FIELD_IN_RECORD",
            "Birthdate: value not of required type: 1/1/2000",
        ),
        (
            {"Birthdate": "2001-02-29"},
            "INVALID_TYPE_ON_FIELD_IN_RECORD",
            "Birthdate: value not of required type: 2001-02-29",
        ),
        (
            {"Birthdate": ""},
            "INVALID_TYPE_ON_FIELD_IN_RECORD",
            "Birthdate: value not of required type: ",
        ),
        (
            {"Last_SMS_At__c": "2026-11-23 09:00:00"},
            "INVALID_TYPE_ON_FIELD_IN_RECORD",
            "Last SMS At: value not of required type: 2026-11-23 09:00:00",
        ),
        (
            {"DoNotCall": "true"},
            "INVALID_TYPE_ON_FIELD_IN_RECORD",
            "Do Not Call: value not of required type: true",
        ),
        (
            {"DoNotCall": None},
            "INVALID_TYPE_ON_FIELD_IN_RECORD",
            "Do Not Call: value not of required type: None",
        ),
        (
            {"FirstName": 7},
            "INVALID_TYPE_ON_FIELD_IN_RECORD",
            "First Name: value not of required type: 7",
        ),
        (
            {"SMS_Score__c": "many"},
            "INVALID_TYPE_ON_FIELD_IN_RECORD",
            "SMS Score: value not of required type: many",
        ),
        (
            {"SMS_Score__c": "nan"},
            "INVALID_TYPE_ON_FIELD_IN_RECORD",
            "SMS Score: value not of required type: nan",
        ),
        (
            {"Nothing__c": "x"},
            "INVALID_FIELD",
            "No such column 'Nothing__c' on sobject of type Contact",
        ),
        (
            {"Name": "Ann Doe"},
            "INVALID_FIELD_FOR_INSERT_UPDATE",
            (
                "Unable to create/update fields: Name. Please check the security settings of this"
                " field and verify that it is read/write for your profile or permission set."
            ),
        ),
    ],
)
async def test_a_value_that_does_not_fit_is_told_in_the_vendors_words(
    org, stub, values, code, text
):
    error = await refused(org, contact(**values))
    assert (error["statusCode"], error["message"]) == (code, text)
    assert code == "INVALID_FIELD" or error["fields"] == list(values)
    assert stub.records("Contact") == []


async def test_several_values_that_do_not_fit_are_told_together(org):
    (result,) = await upserted(org, contact(FirstName="x" * 41, Email="ann"))
    codes = [error["statusCode"] for error in result["errors"]]
    assert codes == ["STRING_TOO_LONG", "INVALID_EMAIL_ADDRESS"]


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ({"lastname": "Low"}, {"LastName": "Low"}),
        ({"FirstName": " Ann "}, {"FirstName": "Ann", "Name": "Ann Doe"}),
        ({"LeadSource": "SMS"}, {"LeadSource": "SMS"}),
        ({"Birthdate": "2000-01-31"}, {"Birthdate": "2000-01-31"}),
        ({"DoNotCall": True}, {"DoNotCall": True}),
        ({"SMS_Score__c": 7.5}, {"SMS_Score__c": 7.5}),
        ({"SMS_Score__c": "7"}, {"SMS_Score__c": 7.0}),
        ({"Last_SMS_At__c": "2026-11-23T09:00:00.000+0000"}, {}),
        ({"Last_SMS_At__c": "2026-11-23T09:00:00Z"}, {}),
        ({"MobilePhone": "+1 (212) 555-0123"}, {"MobilePhone": "+1 (212) 555-0123"}),
    ],
)
async def test_what_fits_is_kept_as_it_was_sent(org, stub, values, kept):
    record = {"attributes": {"type": "contact"}, "SMS_Key__c": "1", "LastName": "Doe"}
    if "lastname" in values:
        del record["LastName"]
    (result,) = await upserted(org, record | values)
    assert result["success"]
    (row,) = stub.records("Contact")
    assert row.items() >= kept.items()


async def test_null_and_nothing_clear_and_what_is_not_sent_stays(org, stub):
    await upserted(org, contact(FirstName="Ann", Title="Dr", MailingCity="Rome"))
    await upserted(org, contact(FirstName=None, Title=""))
    (row,) = stub.records("Contact")
    assert "FirstName" not in row
    assert "Title" not in row
    assert row["MailingCity"] == "Rome"
    assert (await refused(org, contact(LastName=None)))["statusCode"] == "REQUIRED_FIELD_MISSING"


async def test_what_must_be_unique_is(org, stub):
    await upserted(org, contact("1", Loyalty_Number__c="L1"))
    error = await refused(org, contact("2", Loyalty_Number__c="l1"))
    known = stub.records("Contact")[0]["Id"]
    assert error["statusCode"] == "DUPLICATE_VALUE"
    assert error["message"] == (
        f"duplicate value found: Loyalty_Number__c duplicates value on record with id: {known}"
    )
    (result,) = await upserted(org, contact("1", Loyalty_Number__c="L1"))
    assert result["success"]


async def test_a_parent_is_found_by_its_external_id(org, stub):
    ((made),) = await upserted(org, contact("1"))
    await upserted(org, event(Contact__r={"SMS_Key__c": "1"}), url=EVENTS)
    assert stub.records("SMS_Event__c")[0]["Contact__c"] == made["id"]


@pytest.mark.parametrize(
    ("parent", "text"),
    [
        (
            {"Contact__r": {"SMS_Key__c": "9"}},
            "Foreign key external ID: 9 not found for field SMS_Key__c in entity Contact",
        ),
        (
            {"Contact__r": {"LastName": "Doe"}},
            "Field name provided, LastName is not an External ID or indexed field for Contact",
        ),
        (
            {"Contact__c": {"SMS_Key__c": "1"}},
            "No such column 'Contact__c' on sobject of type SMS_Event__c",
        ),
        (
            {"Contact__r": {"SMS_Key__c": None}},
            "Foreign key external ID: None not found for field SMS_Key__c in entity Contact",
        ),
        ({"Contact__r": {}}, "The Contact__r relationship should be given by exactly one"),
    ],
)
async def test_a_parent_that_is_not_there_fails_the_row(org, stub, parent, text):
    await upserted(org, contact("1"))
    stub.seed("Contact", {"LastName": "Keyless"})
    error = await refused(org, event(**parent), url=EVENTS)
    assert error["statusCode"] == "INVALID_FIELD"
    assert error["message"].startswith(text)
    assert stub.records("SMS_Event__c") == []


# Tasks, whose person is a contact or a lead


TASKS = f"{BASE}/composite/sobjects/Task/SMS_Event_Id__c"


def task(key="e1", **values):
    return {"attributes": {"type": "Task"}, "SMS_Event_Id__c": key} | values


async def test_a_task_has_its_defaults_and_is_closed_when_completed(org, stub):
    await upserted(org, task("e1"), task("e2", Status="Completed"), url=TASKS)
    first, second = stub.records("Task")
    assert (first["Status"], first["Priority"], first["TaskSubtype"]) == (
        "Not Started",
        "Normal",
        "Task",
    )
    assert (first["IsClosed"], second["IsClosed"]) == (False, True)


async def test_a_task_is_upserted_by_its_external_id(org, stub):
    (first,) = await upserted(org, task(Subject="a"), url=TASKS)
    (second,) = await upserted(org, task(Subject="b"), url=TASKS)
    assert (first["created"], second["created"]) == (True, False)
    assert first["id"] == second["id"]
    assert [each["Subject"] for each in stub.records("Task")] == ["b"]


async def test_the_person_of_a_task_is_a_contact_or_a_lead_that_is_there(org, stub):
    contact = stub.seed("Contact", {"LastName": "Doe"})
    lead = stub.seed("Lead", {"LastName": "Doe", "Company": "A"})
    await upserted(org, task("e1", WhoId=contact), task("e2", WhoId=lead), url=TASKS)
    assert [each["WhoId"] for each in stub.records("Task")] == [contact, lead]
    campaign = stub.seed("Campaign", {"Name": "Summer"})
    wrong = await refused(org, task("e3", WhoId=campaign), url=TASKS)
    assert (wrong["statusCode"], wrong["fields"]) == ("FIELD_INTEGRITY_EXCEPTION", ["WhoId"])
    assert "id value of incorrect type" in wrong["message"]
    missing = await refused(org, task("e3", WhoId=new_id("003", 999)), url=TASKS)
    assert missing["statusCode"] == "INVALID_CROSS_REFERENCE_KEY"
    stub.org.delete("Contact", contact)
    gone = await refused(org, task("e1", WhoId=contact), url=TASKS)
    assert (gone["statusCode"], gone["fields"]) == ("ENTITY_IS_DELETED", ["WhoId"])
    assert len(stub.records("Task")) == 2


async def test_a_converted_lead_takes_no_task(org, stub):
    lead = stub.seed("Lead", {"LastName": "Doe", "Company": "A"})
    stub.convert(lead, stub.seed("Contact", {"LastName": "Doe"}))
    error = await refused(org, task(WhoId=lead), url=TASKS)
    assert error["statusCode"] == "CANNOT_UPDATE_CONVERTED_LEAD"


async def test_no_external_id_names_the_person_of_a_task(org, stub):
    stub.seed("Contact", {"LastName": "Doe", "SMS_Key__c": "1"})
    error = await refused(org, task(Who={"SMS_Key__c": "1"}), url=TASKS)
    assert error["statusCode"] == "INVALID_FIELD"
    assert stub.records("Task") == []


async def test_the_subtype_of_a_task_is_said_once(org, stub):
    await upserted(org, task(TaskSubtype="Call"), url=TASKS)
    error = await refused(org, task(TaskSubtype="Call"), url=TASKS)
    assert (error["statusCode"], error["fields"]) == (
        "INVALID_FIELD_FOR_INSERT_UPDATE",
        ["TaskSubtype"],
    )
    described = (await org.get(f"{BASE}/sobjects/Task/describe")).json()["fields"]
    (subtype,) = [field for field in described if field["name"] == "TaskSubtype"]
    assert (subtype["createable"], subtype["updateable"]) == (True, False)
    (who,) = [field for field in described if field["name"] == "WhoId"]
    assert who["referenceTo"] == ["Contact", "Lead"]


async def test_tasks_of_one_person_lock_each_other(org, stub):
    person = stub.seed("Contact", {"LastName": "Doe"})
    stub.latency = 0.05
    answers = await asyncio.gather(
        *(upserted(org, task(each, WhoId=person), url=TASKS) for each in ("e1", "e2"))
    )
    assert sorted(row["success"] for (row,) in answers) == [False, True]
    assert stub.fired["locked"] == 1


@pytest.mark.parametrize(
    ("known", "code"),
    [
        (new_id("003", 99), "INVALID_CROSS_REFERENCE_KEY"),
        (new_id("00Q", 1), "MALFORMED_ID"),
        ("12125550123", "MALFORMED_ID"),
    ],
)
async def test_a_parents_id_must_be_one(org, known, code):
    assert (await refused(org, event(Contact__c=known), url=EVENTS))["statusCode"] == code


async def test_all_or_none_takes_back_what_was_right(org, stub):
    await upserted(org, contact("1"))
    results = await upserted(
        org, contact("1", FirstName="Ann"), contact("2", Email="x"), every=True
    )
    codes = [result["errors"][0]["statusCode"] for result in results]
    assert codes == ["ALL_OR_NONE_OPERATION_ROLLED_BACK", "INVALID_EMAIL_ADDRESS"]
    (row,) = stub.records("Contact")
    assert "FirstName" not in row
    (result,) = await upserted(org, contact("1", FirstName="Ann"))
    assert result["created"] is False


async def test_a_value_of_the_wrong_type_may_fail_the_whole_collection(org, stub):
    stub.mistyped_request = True
    answer = await org.patch(
        CONTACTS, json={"records": [contact("1"), contact("2", Birthdate="1/1/2000")]}
    )
    status, code, text = told(answer)
    assert (status, code) == (400, "JSON_PARSER_ERROR")
    assert "1/1/2000" in text
    assert stub.records("Contact") == []


async def test_records_are_inserted_and_changed_by_id_too(org, stub):
    campaign = {"attributes": {"type": "Campaign"}, "Name": "June"}
    url = f"{BASE}/composite/sobjects"
    answer = await org.post(url, json={"records": [contact(), campaign]})
    person, june = answer.json()
    assert person["success"]
    assert "created" not in person
    assert stub.records("Campaign")[0]["Id"] == june["id"]
    change = {"attributes": {"type": "Contact"}, "id": person["id"][:15], "FirstName": "Ann"}
    (result,) = (await org.patch(url, json={"records": [change]})).json()
    assert result == {"id": person["id"], "success": True, "errors": []}
    assert stub.records("Contact")[0]["FirstName"] == "Ann"
    by_id = f"{BASE}/composite/sobjects/Contact/Id"
    record = {"attributes": {"type": "Contact"}, "Id": person["id"], "FirstName": "Eve"}
    (result,) = await upserted(org, record, url=by_id)
    assert result["created"] is False


@pytest.mark.parametrize(
    ("method", "record", "code"),
    [
        ("POST", contact(Id=new_id("003", 1)), "INVALID_FIELD_FOR_INSERT_UPDATE"),
        ("POST", contact(attributes={"type": "Nothing"}), "INVALID_TYPE"),
        ("PATCH", contact(), "MISSING_ARGUMENT"),
        ("PATCH", contact(Id=new_id("003", 9)), "INVALID_CROSS_REFERENCE_KEY"),
        ("PATCH", contact(Id="003"), "MALFORMED_ID"),
    ],
)
async def test_an_id_is_for_changing_and_not_for_making(org, method, record, code):
    answer = await org.request(method, f"{BASE}/composite/sobjects", json={"records": [record]})
    (result,) = answer.json()
    assert result["errors"][0]["statusCode"] == code


# One record


def single(key, field="SMS_Key__c", version="66.0"):
    return f"/services/data/v{version}/sobjects/Contact/{field}/{key}"


async def test_one_record_is_made_and_then_changed(org, stub):
    answer = await org.patch(single("1"), json={"LastName": "Doe"})
    known = stub.records("Contact")[0]["Id"]
    assert answer.status_code == 201
    assert answer.json() == {"id": known, "success": True, "errors": [], "created": True}
    answer = await org.patch(single("1"), json={"LastName": "Roe"})
    assert (answer.status_code, answer.json()["created"]) == (200, False)
    answer = await org.patch(single("1", version="45.0"), json={"LastName": "Poe"})
    assert (answer.status_code, answer.content) == (204, b"")
    assert stub.records("Contact")[0]["LastName"] == "Poe"


async def test_a_key_that_several_have_is_answered_by_all_of_them(org, stub):
    ids = [
        stub.seed("Contact", {"LastName": "A", "SMS_Key__c": "1"}, unchecked=True) for _ in range(2)
    ]
    answer = await org.patch(single("1"), json={"LastName": "B"})
    assert answer.status_code == 300
    assert answer.json() == [f"{BASE}/sobjects/Contact/{known}" for known in ids]
    assert "location" not in answer.headers
    assert {row["LastName"] for row in stub.records("Contact")} == {"A"}


@pytest.mark.parametrize("body", [{"Id": "003"}, {"SMS_Key__c": "1"}, {"sms_key__c": "1"}])
async def test_neither_id_nor_key_is_in_the_body(org, stub, body):
    status, code, text = told(await org.patch(single("1"), json={"LastName": "Doe"} | body))
    assert (status, code) == (400, "INVALID_FIELD")
    assert "field should not be specified in the sobject data" in text
    assert stub.records("Contact") == []


async def test_update_only_makes_nothing(org, stub):
    answer = await org.patch(single("1") + "?updateOnly=true", json={"LastName": "Doe"})
    assert told(answer)[:2] == (404, "NOT_FOUND")
    assert stub.records("Contact") == []


@pytest.mark.parametrize(
    ("sent", "key"),
    [("%2B1212", "+1212"), ("+1212", "1212"), ("a%2Fb", "a/b"), ("%C3%A9", "é"), ("a%20b", "a b")],
)
async def test_a_key_in_the_path_is_encoded(org, stub, sent, key):
    """A plus sign as it is means a space, and a space before the value is none."""
    await org.patch(single(sent), json={"LastName": "Doe"})
    assert stub.records("Contact")[0]["SMS_Key__c"] == key
    assert stub.calls[-1].path.endswith(sent)


async def test_a_record_that_is_refused_alone_says_error_code(org):
    answer = await org.patch(single("1"), json={"FirstName": "Ann"})
    assert answer.status_code == 400
    assert answer.json() == [
        {
            "message": "Required fields are missing: [LastName]",
            "errorCode": "REQUIRED_FIELD_MISSING",
            "fields": ["LastName"],
        }
    ]
    answer = await org.patch(single("1"), json={"LastName": "Doe", "Birthdate": "1/1/2000"})
    assert told(answer) == (
        400,
        "JSON_PARSER_ERROR",
        (
            "Cannot deserialize instance of date from VALUE_STRING value 1/1/2000 or request may be"
            " missing a required field at [line:1, column:2]"
        ),
    )


async def test_a_record_is_read_made_and_deleted_by_its_id(org, stub):
    answer = await org.post(f"{BASE}/sobjects/Contact", json={"LastName": "Doe"})
    assert answer.status_code == 201
    known = answer.json()["id"]
    url = f"{BASE}/sobjects/Contact/{known}"
    assert (await org.patch(url, json={"FirstName": "Ann"})).status_code == 204
    assert (await org.get(url)).json()["Name"] == "Ann Doe"
    answer = await org.get(url, params={"fields": "firstname"})
    assert set(answer.json()) == {"attributes", "FirstName"}
    assert (await org.get(url, params={"fields": "Nothing"})).status_code == 400
    assert (await org.delete(url)).status_code == 204
    assert told(await org.patch(url, json={"FirstName": "Eve"}))[:2] == (404, "ENTITY_IS_DELETED")
    assert told(await org.get(f"{BASE}/sobjects/Contact/{new_id('003', 9)}"))[0] == 404


async def test_ids_have_the_vendors_form():
    known = new_id("003", 123456789)
    assert len(known) == 18
    assert full_id(known[:15]) == known
    assert full_id(known[:15] + "XXX") is None
    assert full_id("0015g00000Xgxd8") == "0015g00000Xgxd8AAB"


# Rules


async def test_a_duplicate_is_refused_unless_the_client_says_otherwise(org, stub):
    known = stub.seed("Contact", {"LastName": "Doe", "MobilePhone": "+12125550123"})
    stub.duplicate_rule("Contact", "MobilePhone")
    record = contact("1", MobilePhone="+12125550123")
    error = await refused(org, record)
    assert error["statusCode"] == "DUPLICATES_DETECTED"
    assert error["message"] == "Use one of these records?"
    result = error["duplicateResult"]
    assert result["allowSave"] is True
    assert result["matchResults"][0]["matchRecords"][0]["record"]["Id"] == known
    header = {"sforce-duplicate-rule-header": "allowSave=true"}
    await refused(org, record, url=CONTACTS.replace("66", "51"), headers=header)
    (result,) = await upserted(org, record, headers=header)
    assert result["success"]
    (result,) = await upserted(org, record)
    assert result["success"], "a rule for new records leaves changes alone"


async def test_a_rule_that_blocks_blocks(org, stub):
    stub.seed("Contact", {"LastName": "Doe", "MobilePhone": "+12125550123"})
    stub.duplicate_rule("Contact", "MobilePhone", allow_save=False)
    header = {"sforce-duplicate-rule-header": "allowSave=true"}
    error = await refused(org, contact("1", MobilePhone="+12125550123"), headers=header)
    assert error["duplicateResult"]["allowSave"] is False


async def test_a_rule_may_look_at_changes(org, stub):
    stub.seed("Contact", {"LastName": "Doe", "MobilePhone": "+12125550123"})
    stub.seed("Contact", {"LastName": "Roe", "SMS_Key__c": "1"})
    stub.duplicate_rule("Contact", "MobilePhone", edits=True)
    error = await refused(org, contact("1", MobilePhone="+12125550123"))
    assert error["statusCode"] == "DUPLICATES_DETECTED"


async def test_duplicates_may_be_named_otherwise_or_not_at_all(org, stub):
    stub.seed("Contact", {"LastName": "Doe", "MobilePhone": "+12125550123"})
    stub.duplicate_rule("Contact", "MobilePhone")
    stub.duplicate_key = "duplicateResut"
    stub.rows_name_duplicates = False
    values = {"LastName": "Doe", "MobilePhone": "+12125550123"}
    answer = await org.patch(single("1"), json=values)
    assert answer.status_code == 400
    assert answer.json()[0]["duplicateResut"]["duplicateRuleEntityType"] == "Contact"
    assert set(await refused(org, contact("1", **values))) == {"statusCode", "message", "fields"}


async def test_assignment_rules_run_for_leads_unless_they_are_told_not_to(org, stub):
    url = f"{BASE}/composite/sobjects/Lead/SMS_Key__c"
    lead = {"attributes": {"type": "Lead"}, "LastName": "Doe", "Company": "Acme"}
    (first,) = await upserted(org, lead | {"SMS_Key__c": "1"}, url=url)
    quiet = {"sforce-auto-assign": "FALSE"}
    await upserted(org, lead | {"SMS_Key__c": "2"}, url=url, headers=quiet)
    await upserted(org, contact())
    assert stub.assigned == [first["id"]]


async def test_nobody_is_a_campaigns_member_twice(org, stub):
    campaign = stub.seed("Campaign", {"Name": "June"})
    await upserted(org, contact("1"), contact("2"))
    url = f"{BASE}/composite/sobjects"
    members = [
        {
            "attributes": {"type": "CampaignMember"},
            "CampaignId": campaign,
            "Contact": {"SMS_Key__c": key},
            "Status": "Responded",
        }
        for key in ("1", "2")
    ]
    await org.post(url, json={"records": members[:1]})
    first, second = (await org.post(url, json={"records": members})).json()
    assert first["errors"] == [
        {"statusCode": "DUPLICATE_VALUE", "message": "Already a campaign member.", "fields": []}
    ]
    assert second["success"]
    assert len(stub.records("CampaignMember")) == 2
    body = {name: value for name, value in members[0].items() if name != "attributes"}
    answer = await org.post(f"{BASE}/sobjects/CampaignMember", json=body)
    assert told(answer) == (400, "DUPLICATE_VALUE", "Already a campaign member.")


# Reading


async def asked(org, text):
    answer = await org.get(f"{BASE}/query", params={"q": text})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def names(org, where):
    found = await asked(org, f"SELECT LastName FROM Contact WHERE {where} ORDER BY LastName")
    return "".join(record["LastName"] for record in found["records"])


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("SMS_Key__c = '1'", "A"),
        ("SMS_Key__c IN ('1', '2', '9')", "AB"),
        ("SMS_Key__c NOT IN ('1', '2')", "CD"),
        ("SMS_Key__c != NULL", "AB"),
        ("SMS_Key__c = null AND (MobilePhone != null OR Phone != null)", "C"),
        ("LastName = 'a' OR LastName = 'D'", "AD"),
        ("NOT LastName = 'A'", "BCD"),
        ("MobilePhone = '2125550123'", ""),
        ("MobilePhone LIKE '%555-0123'", "C"),
        ("FirstName = 'O\\'Neill'", "D"),
        ("DoNotCall = false AND SMS_Score__c > 1.5", "B"),
        ("CreatedDate > 2020-01-01T00:00:00Z", "ABCD"),
    ],
)
async def test_a_query_finds_what_it_asks_for(org, stub, where, found):
    stub.seed("Contact", {"LastName": "A", "SMS_Key__c": "1"})
    stub.seed("Contact", {"LastName": "B", "SMS_Key__c": "2", "SMS_Score__c": 2})
    stub.seed("Contact", {"LastName": "C", "MobilePhone": "(212) 555-0123"})
    stub.seed("Contact", {"LastName": "D", "FirstName": "O'Neill"})
    assert await names(org, where) == found


async def test_a_query_does_not_mind_capitals_but_answers_in_the_orgs_own(org, stub):
    known = stub.seed("Contact", {"LastName": "A", "SMS_Key__c": "1"})
    stub.seed("SMS_Event__c", {"Event_Id__c": "e1", "Contact__c": known})
    text = f"select sms_key__c from contact where lastname = 'a' and id in ('{known[:15]}')"
    (record,) = (await asked(org, text))["records"]
    assert record["SMS_Key__c"] == "1"
    text = "SELECT contact__R.sms_key__C FROM SMS_Event__c WHERE contact__r.LASTNAME = 'A'"
    (record,) = (await asked(org, text))["records"]
    assert record["Contact__r"]["SMS_Key__c"] == "1"
    assert (await asked(org, f"SELECT Id FROM Contact WHERE Id = '{known.lower()}'"))[
        "records"
    ] == []


async def test_a_long_answer_comes_in_pages(org, stub):
    stub.page_size = 2
    for name in "ABCDE":
        stub.seed("Contact", {"LastName": name})
    page = await asked(org, "SELECT Id, LastName FROM Contact ORDER BY LastName DESC")
    seen = []
    while True:
        seen += [record["LastName"] for record in page["records"]]
        assert page["totalSize"] == 5
        if page["done"]:
            break
        page = (await org.get(page["nextRecordsUrl"])).json()
    assert "nextRecordsUrl" not in page
    assert "".join(seen) == "EDCBA"
    assert told(await org.get(f"{BASE}/query/nothing-2"))[0] == 400


async def test_a_query_gives_what_is_empty_as_null_and_can_count(org, stub):
    known = stub.seed("Contact", {"LastName": "A", "SMS_Key__c": "1"})
    stub.seed("SMS_Event__c", {"Event_Id__c": "e1", "Contact__c": known})
    stub.seed("SMS_Event__c", {"Event_Id__c": "e2"})
    found = await asked(org, "SELECT Email, DoNotCall FROM Contact LIMIT 1")
    assert found["records"] == [
        {
            "attributes": {"type": "Contact", "url": f"{BASE}/sobjects/Contact/{known}"},
            "Email": None,
            "DoNotCall": False,
        }
    ]
    assert (await asked(org, "SELECT COUNT() FROM Contact"))["totalSize"] == 1
    text = "SELECT Contact__r.SMS_Key__c FROM SMS_Event__c ORDER BY Event_Id__c"
    first, second = (await asked(org, text))["records"]
    assert first["Contact__r"]["SMS_Key__c"] == "1"
    assert second["Contact__r"] is None


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("SELECT Nothing FROM Contact", "INVALID_FIELD"),
        ("SELECT Id FROM Contact WHERE Nothing = '1'", "INVALID_FIELD"),
        ("SELECT Nothing__r.Id FROM Contact", "INVALID_FIELD"),
        ("SELECT Id, LastName, id FROM Contact", "INVALID_FIELD"),
        ("SELECT Id FROM Nothing", "INVALID_TYPE"),
        ("SELECT Id", "MALFORMED_QUERY"),
        ("SELECT * FROM Contact", "MALFORMED_QUERY"),
        ("SELECT Id FROM Contact WHERE LastName = 'O'Neill'", "MALFORMED_QUERY"),
        ("SELECT Id FROM Contact WHERE LastName IN ()", "MALFORMED_QUERY"),
        ("SELECT Id FROM Contact WHERE A = '1' AND B = '2' OR C = '3'", "MALFORMED_QUERY"),
        ("SELECT Id FROM Contact;", "MALFORMED_QUERY"),
        ("SELECT Id FROM Contact WHERE Id = 'None'", "INVALID_QUERY_FILTER_OPERATOR"),
        ("SELECT Id FROM Contact WHERE AccountId IN ('1')", "INVALID_QUERY_FILTER_OPERATOR"),
    ],
)
async def test_a_query_that_is_none_is_refused(org, text, code):
    answer = await org.get(f"{BASE}/query", params={"q": text})
    assert told(answer)[:2] == (400, code)


async def found(org, text):
    answer = await org.get(f"{BASE}/search", params={"q": text})
    assert answer.status_code == 200, answer.text
    return [record["attributes"]["type"] for record in answer.json()["searchRecords"]]


async def test_a_search_for_a_number_ignores_its_formatting(org, stub):
    stub.seed("Contact", {"LastName": "A", "MobilePhone": "(212) 555-0123"})
    stub.seed("Contact", {"LastName": "B", "Phone": "+12125550123"})
    stub.seed("Contact", {"LastName": "2125550123"})
    stub.seed("Lead", {"LastName": "C", "Company": "Acme", "Phone": "212.555.0199"})
    returning = "IN PHONE FIELDS RETURNING Contact(Id, MobilePhone), Lead(Id)"
    assert await found(org, f"FIND {{2125550123}} {returning}") == ["Contact", "Contact"]
    many = "2125550123 OR 2125550199 OR 2125550100"
    assert await found(org, f"FIND {{{many}}} {returning}") == ["Contact", "Contact", "Lead"]
    assert await found(org, f"FIND {{{many}}} {returning} LIMIT 1") == ["Contact"]
    where = "IN PHONE FIELDS RETURNING Contact(Id WHERE LastName = 'B')"
    assert await found(org, f"FIND {{2125550123}} {where}") == ["Contact"]
    answer = await org.get(
        f"{BASE}/parameterizedSearch/",
        params={"q": "+1 212-555-0123", "in": "PHONE", "sobject": "Contact", "fields": "LastName"},
    )
    assert [record["LastName"] for record in answer.json()["searchRecords"]] == ["B"]


@pytest.mark.parametrize(
    "text",
    [
        "FIND {+12125550123} IN PHONE FIELDS RETURNING Contact(Id)",
        "FIND {(212) 555-0123} IN PHONE FIELDS RETURNING Contact(Id)",
        "FIND {2} IN PHONE FIELDS RETURNING Contact(Id)",
        "FIND 2125550123 IN PHONE FIELDS",
        "SELECT Id FROM Contact",
    ],
)
async def test_a_search_must_escape_what_is_reserved(org, text):
    answer = await org.get(f"{BASE}/search", params={"q": text})
    assert told(answer)[:2] == (400, "MALFORMED_SEARCH")


async def test_a_search_may_not_know_yet_what_was_just_written(org, stub):
    stub.search_lags = True
    await upserted(org, contact("1", MobilePhone="+12125550123"))
    text = "FIND {2125550123} IN PHONE FIELDS RETURNING Contact(Id)"
    assert await found(org, text) == []
    stub.index()
    assert await found(org, text) == ["Contact"]


async def test_describe_tells_what_a_field_takes(org, stub):
    stub.fields["Contact"]["Colour__c"] = Field("picklist", options=("Red", "Blue"), label="Colour")
    answer = await org.get(f"{BASE}/sobjects/Contact/describe")
    fields = {field["name"]: field for field in answer.json()["fields"]}
    key = fields["SMS_Key__c"]
    assert (key["externalId"], key["unique"], key["length"]) == (True, True, 40)
    last = fields["LastName"]
    assert (last["nillable"], last["createable"], last["defaultedOnCreate"]) == (
        False,
        True,
        False,
    )
    assert fields["Name"]["createable"] is False
    assert fields["Colour__c"]["restrictedPicklist"] is True
    assert [each["value"] for each in fields["Colour__c"]["picklistValues"]] == ["Red", "Blue"]
    answer = await org.get(f"{BASE}/sobjects/SMS_Event__c/describe")
    (lookup,) = [f for f in answer.json()["fields"] if f["relationshipName"] == "Contact__r"]
    assert lookup["referenceTo"] == ["Contact"]


# Faults


@pytest.mark.parametrize(
    ("name", "status", "text"),
    [
        ("500", 500, "UNKNOWN_EXCEPTION"),
        ("502", 502, "<html>"),
        ("503", 503, "SERVER_UNAVAILABLE"),
        ("504", 504, "<html>"),
        ("maintenance", 503, "<html>"),
        ("query_timeout", 500, "QUERY_TIMEOUT"),
        ("concurrent", 403, "ConcurrentRequests"),
        ("throttle", 403, "ConcurrentRequests"),
        ("daily", 403, "TotalRequests"),
        ("expired", 401, "INVALID_SESSION_ID"),
        ("disabled", 403, "API_DISABLED_FOR_ORG"),
        ("empty", 200, ""),
        ("not_json", 200, "<html>"),
        ("redirect", 302, ""),
    ],
)
async def test_a_fault_is_answered_as_often_as_it_was_asked_for(org, stub, name, status, text):
    stub.fault(name, count=2)
    for _ in range(2):
        answer = await org.patch(CONTACTS, json={"records": [contact()]})
        assert answer.status_code == status
        assert text in answer.text
    assert stub.records("Contact") == []
    assert stub.fired == {name: 2}
    assert (await upserted(org, contact()))[0]["success"]


async def test_any_error_of_the_vendor_can_be_asked_for(org, stub):
    stub.fault_answer(403, "STORAGE_LIMIT_EXCEEDED")
    answer = await org.patch(CONTACTS, json={"records": [contact()]})
    assert told(answer) == (403, "STORAGE_LIMIT_EXCEEDED", "storage limit exceeded")
    assert stub.fired == {"403 STORAGE_LIMIT_EXCEEDED": 1}


async def test_any_error_of_a_row_can_be_asked_for(org, stub):
    stub.fault_row("UNABLE_TO_LOCK_ROW", key="2")
    stub.fault_row("FIELD_CUSTOM_VALIDATION_EXCEPTION", message="No", fields=["LastName"], key="3")
    results = await upserted(org, contact("1"), contact("2"), contact("3"))
    assert [result["success"] for result in results] == [True, False, False]
    assert results[2]["errors"] == [
        {
            "statusCode": "FIELD_CUSTOM_VALIDATION_EXCEPTION",
            "message": "No",
            "fields": ["LastName"],
        }
    ]
    assert stub.fired == {"UNABLE_TO_LOCK_ROW": 1, "FIELD_CUSTOM_VALIDATION_EXCEPTION": 1}
    stub.fault_row("ENTITY_IS_DELETED", key="1")
    answer = await org.patch(single("1"), json={"LastName": "Doe"})
    assert told(answer)[:2] == (400, "ENTITY_IS_DELETED")


async def test_a_locked_row_is_one_of_the_request(org, stub):
    stub.fault("lock_row", count=2)
    for _ in range(2):
        results = await upserted(org, contact("1"), contact("2"))
        assert [result["success"] for result in results] == [False, True]
    assert stub.fired == {"lock_row": 2}
    stub.fault("row_entity_is_deleted")
    results = await upserted(org, contact("1"), contact("2"))
    assert results[0]["errors"][0]["statusCode"] == "ENTITY_IS_DELETED"
    assert stub.fired["row_entity_is_deleted"] == 1


async def at_once(org, *requests):
    """The first result of each."""
    answers = await asyncio.gather(
        *(org.patch(url, json={"records": [record]}) for url, record in requests)
    )
    return [
        result["errors"][0]["statusCode"] if result["errors"] else "well"
        for (result,) in (answer.json() for answer in answers)
    ]


async def test_two_inserts_of_a_key_at_once_collide(org, stub):
    stub.latency = 0.05
    assert await at_once(org, (CONTACTS, contact("1")), (CONTACTS, contact("1"))) == [
        "well",
        "DUPLICATE_VALUE",
    ]
    assert len(stub.records("Contact")) == 1
    assert stub.fired == {"race": 1}


async def test_a_record_that_is_being_written_is_locked_and_so_are_its_parents(org, stub):
    stub.seed("Contact", {"LastName": "Doe", "SMS_Key__c": "1"})
    stub.latency = 0.05
    child = event(Contact__r={"SMS_Key__c": "1"})
    other = (CONTACTS, contact("2"))
    assert await at_once(org, (CONTACTS, contact("1")), other, (CONTACTS, contact("1"))) == [
        "well",
        "well",
        "UNABLE_TO_LOCK_ROW",
    ]
    assert await at_once(org, (CONTACTS, contact("1")), (EVENTS, child)) == [
        "well",
        "UNABLE_TO_LOCK_ROW",
    ]
    assert await at_once(org, (EVENTS, child)) == ["well"]
    first, second = await asyncio.gather(
        *(org.patch(single("1"), json={"LastName": "Roe"}) for _ in range(2))
    )
    assert (first.status_code, told(second)[:2]) == (200, (400, "UNABLE_TO_LOCK_ROW"))
    assert stub.fired == {"locked": 3}


async def test_rows_can_fail_by_chance(org, stub):
    def chance(kind, row):
        return "UNABLE_TO_LOCK_ROW" if (kind, row["SMS_Key__c"]) == ("Contact", "2") else None

    stub.row_chance = chance
    results = await upserted(org, contact("1"), contact("2"))
    assert [result["success"] for result in results] == [True, False]
    assert stub.fired == {"UNABLE_TO_LOCK_ROW": 1}


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("drop", 0),
        ("drop_after_commit", 1),
        ("garbage", 0),
        ("garbage_after_commit", 1),
        ("hang", 0),
        ("hang_after_commit", 1),
    ],
)
async def test_a_connection_can_break_before_and_after_the_record_is_kept(org, stub, name, kept):
    stub.fault(name)
    with pytest.raises(httpx.TransportError):
        await org.patch(
            CONTACTS,
            json={"records": [contact()]},
            timeout=timedelta(milliseconds=300).total_seconds(),
        )
    assert len(stub.records("Contact")) == kept
    assert stub.fired == {name: 1}
    assert stub.calls[-1].status is None
    assert (await upserted(org, contact()))[0]["created"] is (not kept)


async def test_a_server_can_forget_to_say_that_it_has_kept_the_record(org, stub):
    stub.fault("502_after_commit")
    answer = await org.patch(CONTACTS, json={"records": [contact()]})
    assert answer.status_code == 502
    assert len(stub.records("Contact")) == 1


async def test_a_fault_can_wait_for_a_request_of_its_kind(org, stub):
    stub.fault("503", on="oauth2/token")
    stub.fault("502", on="PATCH ")
    assert (await org.get(f"{BASE}/limits")).status_code == 200
    assert (await org.patch(CONTACTS, json={})).status_code == 502
    assert (await org.post(TOKEN, data=SECRET)).status_code == 503
    assert (await org.post(TOKEN, data=SECRET)).status_code == 200


async def test_signing_in_is_no_data_request(org, stub):
    stub.fault("503")
    assert (await org.post(TOKEN, data=SECRET)).status_code == 200
    assert (await org.get(f"{BASE}/limits")).status_code == 503


async def test_faults_can_come_by_chance(org, stub):
    stub.chance = lambda method, _path: "503" if method == "PATCH" else None
    assert (await org.patch(CONTACTS, json={})).status_code == 503
    assert (await org.get(f"{BASE}/limits")).status_code == 200


def test_a_fault_that_is_none_is_a_mistake_of_the_test(stub):
    with pytest.raises(ValueError, match="drop_after is no fault of this stub"):
        stub.fault("drop_after")
    with pytest.raises(Refused):
        stub.seed("Contact", {"FirstName": "Ann"})


async def test_calls_are_kept_with_what_was_sent(org, stub):
    await org.patch(CONTACTS, json={"records": [contact()]}, headers={"x-note": "7"})
    await stub.called(2)
    call = stub.calls[-1]
    assert (call.method, call.path, call.status) == ("PATCH", CONTACTS, 200)
    assert call.headers["x-note"] == "7"
    assert call.json()["records"][0]["SMS_Key__c"] == "1"


async def test_the_stub_can_be_driven_by_hand(org, stub):
    assert (await org.post("/_stub/fault/503?count=2")).json() == {"fault": "503"}
    assert (await org.get(f"{BASE}/limits")).status_code == 503
    assert (await org.post("/_stub/fault/nothing")).status_code == 400
    assert (await org.post("/_stub/expire_tokens")).status_code == 200
    assert stub.tokens == set()
    stub.seed("Contact", {"LastName": "Doe"})
    assert (await org.get("/_stub/records/Contact")).json()[0]["LastName"] == "Doe"
    assert (await org.get("/_stub/fired")).json() == {"503": 1}
    assert len((await org.get("/_stub/calls")).json()) == 2
    assert (await org.get("/_stub/")).status_code == 404
