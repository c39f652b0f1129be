"""The HubSpot stub is as strict as its docstrings say, and every fault can be had."""

import asyncio

import httpx
import orjson
import pytest
from clock import ManualClock
from stubs.hubspot import HubSpotStub
from stubs.hubspot_errors import GRANTS, REFUSALS, ROWS
from stubs.hubspot_lists import RecordList
from stubs.hubspot_schema import Field
from stubs.vendor import serving

UPSERT = "/crm/objects/2026-09/contacts/batch/upsert"
TOKEN = "pat-na1-stub"


@pytest.fixture
def stub(clock: ManualClock) -> HubSpotStub:
    return HubSpotStub(clock=clock)


@pytest.fixture
async def api(stub: HubSpotStub):
    bearer = {"authorization": f"Bearer {TOKEN}"}
    async with (
        serving(stub.app) as url,
        httpx.AsyncClient(
            base_url=url, headers=bearer, timeout=5, trust_env=False, verify=False
        ) as client,
    ):
        yield client


def row(key: str, trace: str | None = None, **properties: str) -> dict:
    told = {"id": key, "idProperty": "sms_key", "properties": {"sms_key": key} | properties}
    return told | ({"objectWriteTraceId": trace} if trace else {})


async def upsert(api, *rows: dict, path: str = UPSERT) -> httpx.Response:
    return await api.post(path, json={"inputs": list(rows)})


def embedded(answer: dict) -> list[dict]:
    """The list that stands in the message."""
    return orjson.loads(answer["message"].removeprefix("Property values were not valid: "))


async def test_an_upsert_makes_a_record_then_changes_it(api, stub):
    first = await upsert(api, row("1415", "t1", firstname="Ann"))
    again = await upsert(api, row("1415", "t2", firstname="Bea", city="Oslo"))
    assert first.status_code == again.status_code == 200
    (made,), (changed,) = first.json()["results"], again.json()["results"]
    assert (made["new"], changed["new"]) == (True, False)
    assert (made["objectWriteTraceId"], made["id"]) == ("t1", changed["id"])
    assert first.json()["status"] == "COMPLETE"
    (record,) = stub.records("contacts")
    assert record == {"id": made["id"], "sms_key": "1415", "firstname": "Bea", "city": "Oslo"}


@pytest.mark.parametrize(
    "path",
    [
        "/crm/objects/2026-09/contacts",
        "/crm/objects/2026-09/0-1",
        "/crm/v3/objects/contacts",
    ],
)
async def test_both_versions_are_served(api, path):
    assert (await upsert(api, row("1"), path=path + "/batch/upsert")).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/crm/objects/2026-10/contacts",
        "/crm/objects/v3/contacts",
        "/crm/v4/objects/contacts",
        "/crm/2026-09/objects/contacts",
        "/events/v4/send",
    ],
)
async def test_other_versions_are_not(api, path):
    assert (await api.post(path, json={})).status_code == 404


async def test_results_come_in_any_order(api):
    rows = [row(str(number), f"t{number}") for number in range(50)]
    results = (await upsert(api, *rows)).json()["results"]
    traces = [result["objectWriteTraceId"] for result in results]
    assert sorted(traces) == sorted(f"t{number}" for number in range(50))
    assert traces != [f"t{number}" for number in range(50)]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row(str(number)) for number in range(101)], "100"),
        ([{"idProperty": "sms_key", "properties": {}}], "not set: [id]"),
        ([{"idProperty": "sms_key", "id": "1"}], "not set: [properties]"),
        ([row("1") | {"id": 1}], "type String"),
        ([row("1", firstname=None)], "type String"),
        ([row("1", sms_count=1)], "type String"),
        ([row("1", sms_opt_out=True)], "type String"),
        ([row("1") | {"associations": []}], "Unrecognized field"),
        ([row("1"), row("2"), row("1")], "Duplicate IDs found in batch input: [1]"),
        ([row("1") | {"idProperty": "phone"}], "non-unique 0-1 property"),
        ([row("1") | {"idProperty": "hs_object_id"}], "non-unique 0-1 property"),
        ([{"id": "1", "properties": {}}], "non-unique 0-1 property"),
    ],
)
async def test_a_malformed_batch_is_refused_whole_whatever_its_traces(api, stub, rows, words):
    traced = [each | {"objectWriteTraceId": str(place)} for place, each in enumerate(rows)]
    refused = await upsert(api, *traced)
    assert refused.status_code == 400
    assert refused.json()["category"] == "VALIDATION_ERROR"
    assert words in refused.json()["message"]
    assert stub.records("contacts") == []


BAD = [
    ("PROPERTY_DOESNT_EXIST", {"nope": "x"}),
    ("READ_ONLY_VALUE", {"createdate": "2026-01-01T00:00:00Z"}),
    ("INVALID_OPTION", {"lifecyclestage": "Lead"}),
    ("INVALID_OPTION", {"hobbies": "golf;sleep"}),
    ("INVALID_OPTION", {"sms_opt_out": "yes"}),
    ("INVALID_EMAIL", {"email": "ann@nowhere"}),
    ("INVALID_INTEGER", {"sms_count": "1,000"}),
    ("INVALID_LONG", {"sms_joined": "23.11.2026"}),
    ("INVALID_LONG", {"sms_joined": "2026-02-30"}),
    ("INVALID_DATE", {"sms_joined": "1795392000001"}),
    ("INVALID_LONG", {"sms_last_at": "2026-11-23T08:00:00"}),
    ("INVALID_NAME", {"firstname": "https://win.example"}),
    ("INVALID_STRING_LENGTH", {"city": "x" * 65_537}),
]


@pytest.mark.parametrize(("code", "properties"), BAD)
async def test_a_bad_value_fails_its_row_alone_when_all_rows_are_traced(
    api, stub, code, properties
):
    told = await upsert(api, row("1", "good"), row("2", "bad", **properties))
    assert told.status_code == 207
    answer = told.json()
    assert [each["objectWriteTraceId"] for each in answer["results"]] == ["good"]
    (error,) = answer["errors"]
    assert answer["numErrors"] == 1
    assert error["context"]["objectWriteTraceId"] == ["bad"]
    assert [each["code"] for each in error["errors"]] == [code]
    assert [(each["error"], each["isValid"]) for each in embedded(error)] == [(code, False)]
    assert [each["sms_key"] for each in stub.records("contacts")] == ["1"]


@pytest.mark.parametrize("traces", [(None, None), ("a", None)])
async def test_without_a_trace_on_every_row_one_bad_row_refuses_all(api, stub, traces):
    stub.seed("contacts", {"sms_key": "1", "city": "Rome"})
    rows = [row("1", traces[0], city="Oslo"), row("2", traces[1], nope="x")]
    refused = await upsert(api, *rows)
    assert refused.status_code == 400
    assert embedded(refused.json())[0]["name"] == "nope"
    assert [each["city"] for each in stub.records("contacts")] == ["Rome"]


async def test_there_may_be_no_207_at_all(api, stub):
    stub.multi_status = False
    assert (await upsert(api, row("1", "a"), row("2", "b", nope="x"))).status_code == 400
    assert stub.records("contacts") == []


async def test_all_that_is_wrong_with_a_row_is_said_at_once(api):
    told = await upsert(api, row("1", "t", nope="x", email="x", lifecyclestage="x"))
    codes = {each["error"] for each in embedded(told.json()["errors"][0])}
    assert codes == {"PROPERTY_DOESNT_EXIST", "INVALID_EMAIL", "INVALID_OPTION"}


async def test_good_values_of_every_type_are_kept(api, stub):
    good = {
        "sms_joined": "2026-11-23",
        "sms_last_at": "1795392000001",
        "sms_count": "-3.5",
        "sms_opt_out": "true",
        "hobbies": "golf;chess",
        "email": "Ann@Example.COM",
        "city": "",
    }
    assert (await upsert(api, row("1", **good))).status_code == 200
    assert (await upsert(api, row("1", hobbies=";running"))).status_code == 200
    (record,) = stub.records("contacts")
    assert record["hobbies"] == "golf;chess;running"
    assert (await upsert(api, row("1", sms_joined="1795392000000"))).status_code == 200
    assert stub.records("contacts")[0]["sms_joined"] == "2026-11-23"
    assert record["email"] == "ann@example.com"
    assert "city" not in record


async def test_an_empty_value_clears(api, stub):
    stub.seed("contacts", {"sms_key": "1", "city": "Rome"})
    await upsert(api, row("1", city=""))
    assert "city" not in stub.records("contacts")[0]


async def test_an_address_belongs_to_one_contact(api, stub):
    other = stub.seed("contacts", {"sms_key": "1", "email": "ann@example.com"})
    stub.seed("contacts", {"sms_key": "2"})
    answer = (
        await upsert(
            api,
            row("2", "changed", email="ANN@example.com"),
            row("3", "made", email="ann@example.com"),
        )
    ).json()
    by_trace = {each["context"]["objectWriteTraceId"][0]: each for each in answer["errors"]}
    assert f"{other} already has that value." in by_trace["changed"]["message"]
    assert by_trace["made"]["category"] == "CONFLICT"
    assert by_trace["made"]["message"] == f"Contact already exists. Existing ID: {other}"


async def test_required_properties_are_asked_for_when_a_record_is_made(api, stub):
    stub.fields["contacts"]["firstname"].required = True
    old = stub.seed("contacts", {"sms_key": "1"})
    told = (await upsert(api, row("1", "old"), row("2", "new"))).json()
    assert [each["id"] for each in told["results"]] == [old]
    assert told["errors"][0]["errors"][0]["code"] == "MISSING_REQUIRED_PROPERTY"
    third = await upsert(api, row("3"), path="/crm/v3/objects/contacts/batch/upsert")
    assert third.json()["context"] == {"properties": ["firstname"]}


async def test_a_rule_of_the_administrator_holds_on_dated_paths_alone(api, stub):
    stub.fields["contacts"]["company"].required_when = ("lifecyclestage", "customer")
    told = await upsert(api, row("1", lifecyclestage="customer"))
    assert told.json()["errors"][0]["code"] == "MISSING_CONDITIONAL_REQUIRED_PROPERTY"
    v3 = "/crm/v3/objects/contacts/batch/upsert"
    assert (await upsert(api, row("1", lifecyclestage="customer"), path=v3)).status_code == 200


async def test_with_the_address_as_key_nothing_is_partial(api, stub):
    rows = [
        {"id": f"{name}@example.com", "idProperty": "email", "properties": properties}
        for name, properties in (("ann", {}), ("bob", {"nope": "x"}))
    ]
    traced = [each | {"objectWriteTraceId": each["id"]} for each in rows]
    assert (await upsert(api, *traced)).status_code == 400
    assert stub.records("contacts") == []


async def test_errors_may_be_shared_nameless_and_without_codes(api, stub):
    stub.merge_errors, stub.error_codes, stub.echo_traces = True, False, False
    stub.fault_row("NAMELESS", id="4")
    told = await upsert(
        api, row("1", "a"), row("2", "b", nope="x"), row("3", "c", nope="y"), row("4", "d")
    )
    errors = sorted(told.json()["errors"], key=lambda each: len(each["context"]))
    assert errors[0]["context"] == {}
    assert sorted(errors[1]["context"]["objectWriteTraceId"]) == ["b", "c"]
    assert "code" not in errors[1]["errors"][0]
    assert "objectWriteTraceId" not in told.json()["results"][0]


async def test_every_row_can_be_ordered(api, stub):
    for code in ROWS:
        stub.fault_row(code, id="2")
        told = await upsert(api, row("1", "a"), row("2", "b"))
        assert told.status_code == 207, code
        (error,) = told.json()["errors"]
        assert error["context"]["objectWriteTraceId"] == ["b"], code
        assert stub.fired[code] == 1
        assert (await upsert(api, row("2", "b"))).status_code == 200, code


@pytest.mark.parametrize(("code", "kept"), [("SILENT", 0), ("SILENT_AFTER_COMMIT", 1)])
async def test_a_row_may_go_without_a_word(api, stub, code, kept):
    stub.fault_row(code)
    told = await upsert(api, row("1", "a"))
    assert (told.status_code, told.json()["results"]) == (200, [])
    assert len(stub.records("contacts")) == kept


async def test_an_unknown_fault_is_a_mistake_of_the_test(stub):
    with pytest.raises(ValueError, match="INVALID_EMAIL"):
        stub.fault_row("NOPE")
    with pytest.raises(ValueError, match="throttle"):
        stub.fault("nope")


# Who may call, and how often.


@pytest.mark.parametrize(
    ("bearer", "category", "words"),
    [
        (None, "INVALID_AUTHENTICATION", "credentials not found"),
        ("Basic eHg=", "INVALID_AUTHENTICATION", "credentials not found"),
        ("Bearer pat-na1-other", "INVALID_AUTHENTICATION", "credentials not found"),
        ("Bearer ${HUBSPOT_TOKEN}", "EXPIRED_AUTHENTICATION", "expired 20833 day(s) ago"),
    ],
)
async def test_a_call_without_a_good_token_is_refused(api, stub, bearer, category, words):
    headers = {"authorization": bearer} if bearer else {}
    del api.headers["authorization"]
    refused = await api.post(UPSERT, json={"inputs": [row("1")]}, headers=headers)
    assert (refused.status_code, refused.json()["category"]) == (401, category)
    assert words in refused.json()["message"]
    assert stub.records("contacts") == []


async def test_a_revoked_token_is_dead(api, stub):
    stub.revoke_all()
    assert (await upsert(api, row("1"))).json()["category"] == "INVALID_AUTHENTICATION"
    assert (await refresh(api)).json()["status"] == "BAD_REFRESH_TOKEN"
    stub.restore_all()
    assert (await upsert(api, row("1"))).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", UPSERT, "crm.objects.contacts.write"),
        ("POST", "/crm/objects/2026-09/communications", "crm.objects.contacts.write"),
        ("POST", "/crm/objects/2026-09/contacts/batch/read", "crm.objects.contacts.read"),
        ("GET", "/crm/objects/2026-09/contacts/1", "crm.objects.contacts.read"),
        ("POST", "/crm/objects/2026-09/contacts/search", "crm.objects.contacts.read"),
        ("POST", "/crm/objects/2026-09/2-123/batch/upsert", "crm.objects.custom.write"),
        ("POST", "/crm/properties/2026-09/contacts", "crm.schemas.contacts.write"),
        ("POST", "/crm/properties/2026-09/2-123", "crm.schemas.custom.write"),
        ("POST", "/events/2026-09/send", "analytics.behavioral_events.send"),
        ("GET", "/crm-object-schemas/2026-09/schemas", "crm.schemas.custom.read"),
        ("GET", "/crm/lists/2026-09/7", "crm.lists.read"),
        ("PUT", "/crm/lists/2026-09/7/memberships/add", "crm.lists.read"),
    ],
)
async def test_every_path_has_its_scope(api, stub, method, path, scope):
    stub.scopes = {"oauth"}
    body = {"POST": {}, "PUT": []}.get(method)
    refused = await api.request(method, path, json=body)
    assert (refused.status_code, refused.json()["category"]) == (403, "MISSING_SCOPES")
    assert scope in refused.json()["errors"][0]["context"]["requiredGranularScopes"]
    assert refused.json()["links"]["scopes"]


async def test_ten_seconds_slide(api, stub, clock):
    stub.burst_most = 3
    left = []
    for _ in range(3):
        left.append((await upsert(api, row("1"))).headers["x-hubspot-ratelimit-remaining"])
        await clock.advance(3)
    assert left == ["2", "1", "0"]
    refused = await upsert(api, row("1"))
    assert refused.status_code == 429
    assert refused.json()["policyName"] == "TEN_SECONDLY_ROLLING"
    assert refused.json()["errorType"] == "RATE_LIMIT"
    assert "retry-after" not in refused.headers
    await clock.advance(1)
    assert (await upsert(api, row("1"))).status_code == 200
    assert (await upsert(api, row("1"))).status_code == 429


async def test_a_429_may_say_when_to_come_back(api, stub):
    stub.burst_most, stub.retry_after = 0, 7
    assert (await upsert(api, row("1"))).headers["retry-after"] == "7"


async def test_the_day_ends_at_midnight_and_not_before(api, stub, clock):
    stub.api_used, stub.api_most = 9, 10
    last = await upsert(api, row("1"))
    assert last.headers["x-hubspot-ratelimit-daily"] == "10"
    assert last.headers["x-hubspot-ratelimit-daily-remaining"] == "0"
    await clock.advance(3600)
    assert (await upsert(api, row("1"))).json()["policyName"] == "DAILY"
    stub.new_day()
    assert (await upsert(api, row("1"))).status_code == 200


async def test_a_search_has_a_limit_of_its_own_and_no_headers(api, stub, clock):
    path = "/crm/objects/2026-09/contacts/search"
    answers = [await api.post(path, json={}) for _ in range(6)]
    assert [each.status_code for each in answers] == [200] * 5 + [429]
    assert answers[5].json()["policyName"] == "SECONDLY"
    assert not [name for name in answers[0].headers if name.startswith("x-hubspot-ratelimit")]
    assert (await upsert(api, row("1"))).headers["x-hubspot-ratelimit-remaining"] == "189"
    await clock.advance(1)
    assert (await api.post(path, json={})).status_code == 200


# OAuth.


async def refresh(api, **changed: str) -> httpx.Response:
    form = {"grant_type": "refresh_token", "client_id": "client", "client_secret": "secret"}
    return await api.post(
        "/oauth/2026-09/token", data=form | {"refresh_token": "refresh-1"} | changed
    )


async def test_a_token_lives_for_half_an_hour_and_its_calls_have_no_day(api, clock):
    issued = (await refresh(api)).json()
    assert (issued["expires_in"], issued["token_type"], issued["hub_id"]) == (1800, "bearer", 123)
    api.headers["authorization"] = f"Bearer {issued['access_token']}"
    good = await upsert(api, row("1"))
    assert good.headers["x-hubspot-ratelimit-max"] == "110"
    assert "x-hubspot-ratelimit-daily" not in good.headers
    await clock.advance(1812)
    refused = (await upsert(api, row("1"))).json()
    assert refused["category"] == "EXPIRED_AUTHENTICATION"
    assert "expired 12 second(s) ago" in refused["message"]


async def test_a_refresh_token_works_once(api):
    first = await refresh(api)
    assert (await refresh(api)).json()["status"] == "BAD_REFRESH_TOKEN"
    again = await refresh(api, refresh_token=first.json()["refresh_token"])
    assert again.status_code == 200


async def test_a_refresh_token_may_last(api, stub):
    stub.rotate = False
    assert (await refresh(api)).json()["refresh_token"] == "refresh-1"
    assert (await refresh(api)).status_code == 200


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"client_id": "x"}, "BAD_CLIENT_ID"),
        ({"client_secret": "x"}, "BAD_CLIENT_SECRET"),
        ({"refresh_token": "x"}, "BAD_REFRESH_TOKEN"),
        ({"grant_type": "client_credentials"}, "BAD_GRANT_TYPE"),
    ],
)
async def test_a_bad_grant_says_what_is_bad(api, changed, status):
    refused = await refresh(api, **changed)
    assert (refused.status_code, refused.json()["status"]) == (400, status)


async def test_the_token_endpoint_wants_a_form_and_throttles(api, stub):
    assert (await api.post("/oauth/v1/token", json={})).status_code == 415
    stub.oauth_most = 1
    throttled = await refresh(api)
    assert throttled.status_code == 429
    assert throttled.json()["message"] == "You have reached your rate limit."


async def test_faults_of_the_token_endpoint_wait_for_it(api, stub):
    stub.fault("bad_hub")
    assert (await upsert(api, row("1"))).status_code == 200
    assert (await refresh(api)).json()["status"] == "BAD_HUB"


async def test_expired_tokens_expire_and_static_ones_do_not(api, stub):
    issued = (await refresh(api)).json()
    stub.expire_tokens()
    assert (await upsert(api, row("1"))).status_code == 200
    api.headers["authorization"] = f"Bearer {issued['access_token']}"
    assert (await upsert(api, row("1"))).status_code == 401


# Faults.


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("throttle", 429, "TEN_SECONDLY_ROLLING"),
        ("throttle_old", 429, "RATE_LIMITS"),
        ("secondly", 429, "SECONDLY"),
        ("daily", 429, "DAILY"),
        ("423", 423, "locked"),
        ("477", 477, "moved"),
        ("502", 502, "502"),
        ("524", 524, "524"),
        ("html", 502, "<html>"),
        ("expired", 401, "EXPIRED_AUTHENTICATION"),
        ("malformed_token", 401, "20543 day(s)"),
        ("scopes", 403, "MISSING_SCOPES"),
        ("forbidden", 403, "permissions"),
        ("conflict", 409, "Existing ID: 501"),
        ("bad_batch", 400, "INVALID_EMAIL"),
        ("non_unique", 400, "non-unique 0-1 property"),
        ("duplicate_ids", 400, "Duplicate IDs"),
    ],
)
async def test_a_fault_answers_and_writes_nothing(api, stub, name, status, words):
    stub.fault(name)
    told = await upsert(api, row("1", "t"))
    assert told.status_code == status
    assert words in told.text
    assert (stub.records("contacts"), stub.fired) == ([], {name: 1})
    assert (await upsert(api, row("1", "t"))).status_code == 200


async def test_every_refusal_by_name_is_one_in_the_usual_envelope(api, stub):
    for name in REFUSALS.keys() - GRANTS.keys():
        stub.fault(name)
        told = await upsert(api, row("1", "t"))
        assert told.status_code >= 400, name
        assert told.json().keys() >= {"status", "message", "correlationId"}, name
        assert stub.fired[name] == 1
    assert stub.records("contacts") == []


async def test_every_refusal_of_a_grant_is_had_at_the_token_endpoint(api, stub):
    stub.rotate = False
    for name in GRANTS:
        stub.fault(name)
        assert (await refresh(api)).status_code in {400, 429}, name
        assert (await refresh(api)).status_code == 200, name


async def test_a_migration_says_for_how_long(api, stub):
    stub.fault("477")
    assert (await upsert(api, row("1"))).headers["retry-after"] == "3600"


async def test_empty_is_a_success_that_wrote_nothing(api, stub):
    stub.fault("empty")
    told = await upsert(api, row("1", "t"))
    assert (told.status_code, told.json()["results"]) == (200, [])
    assert stub.records("contacts") == []


@pytest.mark.parametrize(("name", "kept"), [("drop", 0), ("drop_after_commit", 1)])
async def test_a_dropped_call_may_be_written_or_not(api, stub, name, kept):
    stub.fault(name)
    with pytest.raises(httpx.RemoteProtocolError):
        await upsert(api, row("1", "t"))
    assert len(stub.records("contacts")) == kept
    assert stub.calls[0].status is None
    await upsert(api, row("1", "t"))
    assert len(stub.records("contacts")) == 1


async def test_a_hung_call_ends_with_the_client_patience(api, stub):
    stub.fault("hang")
    with pytest.raises(httpx.ReadTimeout):
        await api.post(UPSERT, json={"inputs": [row("1")]}, timeout=0.2)
    assert stub.records("contacts") == []


async def test_any_other_answer_can_be_ordered(api, stub):
    stub.fault_answer(418, "TEAPOT", "short and stout", subCategory="x")
    told = await upsert(api, row("1"))
    assert (told.status_code, told.json()["subCategory"]) == (418, "x")


async def test_faults_are_for_records_unless_they_say_otherwise(api, stub):
    stub.fault("503")
    assert (await api.get("/crm/properties/2026-09/contacts")).status_code == 200
    assert (await upsert(api, row("1"))).status_code == 503
    stub.fault("503", on="/properties/")
    assert (await upsert(api, row("1"))).status_code == 200
    assert (await api.get("/crm/properties/2026-09/contacts")).status_code == 503


async def test_two_writes_of_a_record_at_once_lock_each_other_out(api, stub):
    stub.latency = 0.2
    answers = await asyncio.gather(
        upsert(api, row("1", "a"), row("2", "b")),
        upsert(api, row("2", "c"), row("3", "d")),
        upsert(api, row("4", "e")),
    )
    assert sorted(each.status_code for each in answers) == [200, 200, 423]
    assert stub.fired == {"locked": 1}
    stub.latency = 0.0
    assert (await upsert(api, row("2", "c"))).status_code == 200


async def test_rows_may_fail_by_chance(api, stub):
    stub.row_chance = lambda each: "LOCKED" if each["id"] == "2" else None
    told = (await upsert(api, row("1", "a"), row("2", "b"))).json()
    assert [each["category"] for each in told["errors"]] == ["LOCKED"]
    stub.fault("row_rate_limits")
    told = (await upsert(api, row("1", "a"))).json()
    assert [each["category"] for each in told["errors"]] == ["RATE_LIMITS"]
    assert stub.fired == {"LOCKED": 1, "RATE_LIMITS": 1}


# Records, one by one.


async def test_a_create_that_finds_its_address_taken_names_the_other(api, stub):
    path = "/crm/objects/2026-09/contacts"
    made = await api.post(path, json={"properties": {"email": "ann@example.com"}})
    assert made.status_code == 201
    again = await api.post(path, json={"properties": {"email": "Ann@example.com"}})
    assert (again.status_code, again.json()["category"]) == (409, "CONFLICT")
    assert again.json()["message"].endswith(f"Existing ID: {made.json()['id']}")
    assert len(stub.records("contacts")) == 1


async def test_a_patch_finds_by_id_or_by_a_unique_property(api, stub):
    id_ = stub.seed("contacts", {"sms_key": "+1/415"})
    path = "/crm/objects/2026-09/contacts/"
    body = {"properties": {"city": "Oslo"}}
    by_key = await api.patch(path + "%2B1%2F415?idProperty=sms_key", json=body)
    assert (by_key.status_code, by_key.json()["id"]) == (200, id_)
    assert (await api.patch(path + id_, json=body)).status_code == 200
    absent = await api.patch(path + "999", json=body)
    assert (absent.status_code, absent.json()["category"]) == (404, "OBJECT_NOT_FOUND")
    assert (await api.patch(path + "1?idProperty=phone", json=body)).status_code == 400
    stub.delete("contacts", id_)
    assert (await api.patch(path + id_, json=body)).status_code == 404


async def test_a_read_tells_what_was_asked_for(api, stub):
    id_ = stub.seed("contacts", {"sms_key": "1", "city": "Oslo", "firstname": "Ann"})
    path = f"/crm/objects/2026-09/contacts/{id_}"
    usual = (await api.get(path)).json()["properties"]
    assert (usual["firstname"], usual["hs_object_id"], "city" in usual) == ("Ann", id_, False)
    asked = (await api.get(path + "?properties=city,nope,zip")).json()["properties"]
    assert (asked["city"], asked["zip"], "nope" in asked) == ("Oslo", None, False)


async def test_a_batch_read_names_what_is_not_there(api, stub):
    stub.seed("contacts", {"sms_key": "1", "city": "Oslo"})
    path = "/crm/objects/2026-09/contacts/batch/read"
    body = {"idProperty": "sms_key", "properties": ["city"], "inputs": [{"id": "1"}]}
    one = await api.post(path, json=body)
    assert one.status_code == 200
    assert one.json()["results"][0]["properties"]["city"] == "Oslo"
    two = await api.post(path, json=body | {"inputs": [{"id": "1"}, {"id": "2"}]})
    assert two.status_code == 207
    assert len(two.json()["results"]) == 1
    assert two.json()["errors"][0]["context"]["ids"] == ["2"]
    assert (await api.post(path, json=body | {"idProperty": "phone"})).status_code == 400
    many = [{"id": str(number)} for number in range(101)]
    assert (await api.post(path, json=body | {"inputs": many})).status_code == 400


async def test_a_batch_update_by_address_changes_nothing(api, stub):
    id_ = stub.seed("contacts", {"email": "ann@example.com", "city": "Rome"})
    path = "/crm/objects/2026-09/contacts/batch/update"
    each = {"id": "ann@example.com", "idProperty": "email", "properties": {"city": "Oslo"}}
    assert (await api.post(path, json={"inputs": [each]})).json()["results"] == []
    assert stub.records("contacts")[0]["city"] == "Rome"
    each = {"id": id_, "properties": {"city": "Oslo"}}
    assert (await api.post(path, json={"inputs": [each]})).status_code == 200
    assert stub.records("contacts")[0]["city"] == "Oslo"


async def test_all_records_come_page_by_page(api, stub):
    ids = [stub.seed("contacts", {"sms_key": str(number)}) for number in range(5)]
    path, after, seen = "/crm/objects/2026-09/contacts?limit=2", "", []
    while True:
        page = (await api.get(path + after)).json()
        seen += [each["id"] for each in page["results"]]
        if "paging" not in page:
            break
        after = "&after=" + page["paging"]["next"]["after"]
    assert seen == ids
    assert (await api.get("/crm/objects/2026-09/contacts?limit=101")).status_code == 400


# Search.


async def search(api, *filters: dict, **more) -> httpx.Response:
    body = {"filterGroups": [{"filters": list(filters)}]} | more
    return await api.post("/crm/objects/2026-09/contacts/search", json=body)


def a_filter(name: str, operator: str, **values) -> dict:
    return {"propertyName": name, "operator": operator} | values


@pytest.mark.parametrize(
    "phone", ["+14155550123", "(415) 555-0123", "415-555-0123", "1 415 555 0123"]
)
async def test_phones_are_found_by_their_national_digits_alone(api, stub, phone):
    id_ = stub.seed("contacts", {"mobilephone": phone})
    name = "hs_searchable_calculated_mobile_number"
    good = await search(api, a_filter(name, "EQ", value="4155550123"))
    assert [each["id"] for each in good.json()["results"]] == [id_]
    for bad in ("+14155550123", "14155550123"):
        assert (await search(api, a_filter(name, "EQ", value=bad))).json()["total"] == 0


async def test_what_is_no_phone_number_is_found_as_it_stands(api, stub):
    stub.seed("contacts", {"phone": "ask Ann"})
    assert (await search(api, a_filter("phone", "EQ", value="ask ann"))).json()["total"] == 1
    name = "hs_searchable_calculated_phone_number"
    assert (await search(api, a_filter(name, "HAS_PROPERTY"))).json()["total"] == 0


async def test_an_account_that_validates_phones_takes_e164_alone(api, stub):
    stub.fields["contacts"]["mobilephone"].type = "phone_number"
    told = await upsert(api, row("1", "a", mobilephone="4155550123"))
    assert told.json()["errors"][0]["errors"][0]["code"] == "INVALID_PHONE_NUMBER"
    assert (await upsert(api, row("1", "a", mobilephone="+14155550123"))).status_code == 200


async def test_a_search_pages_sorts_and_asks_for_what_is_missing(api, stub):
    for number in range(3):
        stub.seed("contacts", {"phone": f"+1415555012{number}", "sms_count": str(10 - number)})
    stub.seed("contacts", {"phone": "+14155550129", "sms_key": "14155550129"})
    wanted = [a_filter("phone", "HAS_PROPERTY"), a_filter("sms_key", "NOT_HAS_PROPERTY")]
    first = (await search(api, *wanted, limit=2, sorts=["sms_count"], properties=["phone"])).json()
    assert first["total"] == 3
    phones = [each["properties"]["phone"] for each in first["results"]]
    assert phones == ["+14155550122", "+14155550121"]
    after = first["paging"]["next"]["after"]
    last = (await search(api, *wanted, limit=2, sorts=["sms_count"], after=after)).json()
    assert (len(last["results"]), "paging" in last) == (1, False)


@pytest.mark.parametrize(
    "body",
    [
        {"limit": 201},
        {"limit": "10"},
        {"after": "9995", "limit": 10},
        {"query": "x" * 3001},
        {"filterGroups": [{"filters": []}] * 6},
        {"filterGroups": [{"filters": [a_filter("phone", "HAS_PROPERTY")] * 7}]},
        {"filterGroups": [{"filters": [a_filter("phone", "HAS_PROPERTY")] * 5}] * 4},
        {"filterGroups": [{"filters": [a_filter("nope", "HAS_PROPERTY")]}]},
        {"filterGroups": [{"filters": [a_filter("phone", "LIKE", value="1")]}]},
        {"filterGroups": [{"filters": [a_filter("phone", "EQ")]}]},
        {"filterGroups": [{"filters": [a_filter("phone", "EQ", value=1)]}]},
        {"filterGroups": [{"filters": [a_filter("phone", "NOT_HAS_PROPERTY", value="")]}]},
        {"filterGroups": [{"filters": [a_filter("phone", "IN", value="1")]}]},
        {"filterGroups": {}, "filter": []},
        {"sorts": ["nope"]},
    ],
)
async def test_a_search_beyond_the_limits_is_refused(api, body):
    refused = await api.post("/crm/objects/2026-09/contacts/search", json=body)
    assert (refused.status_code, refused.json()["category"]) == (400, "VALIDATION_ERROR")


async def test_a_search_takes_words_and_filters_without_groups(api, stub):
    stub.seed("contacts", {"firstname": "Ann", "sms_count": "3"})
    path = "/crm/objects/2026-09/contacts/search"
    assert (await api.post(path, json={"query": "ann"})).json()["total"] == 1
    assert (await api.post(path, json={"query": "bob"})).json()["total"] == 0
    alone = {"filters": [a_filter("firstname", "EQ", value="Bob")]}
    assert (await api.post(path, json=alone)).json()["total"] == 0
    assert (await search(api, a_filter("sms_count", "GT", value="few"))).status_code == 400


async def test_the_index_lags(api, stub, clock):
    stub.search_lag = 5.0
    await upsert(api, row("1"))
    found = a_filter("sms_key", "EQ", value="1")
    assert (await search(api, found)).json()["total"] == 0
    await clock.advance(5)
    assert (await search(api, found)).json()["total"] == 1


@pytest.mark.parametrize(
    ("one", "total"),
    [
        (a_filter("city", "EQ", value="OSLO"), 1),
        (a_filter("city", "NEQ", value="oslo"), 1),
        (a_filter("city", "IN", values=["oslo", "rome"]), 2),
        (a_filter("city", "NOT_IN", values=["oslo", "rome"]), 0),
        (a_filter("city", "CONTAINS_TOKEN", value="os*"), 1),
        (a_filter("sms_count", "GT", value="9"), 1),
        (a_filter("sms_count", "BETWEEN", value="9", highValue="10"), 2),
    ],
)
async def test_the_operators(api, stub, one, total):
    stub.seed("contacts", {"city": "Oslo", "sms_count": "9"})
    stub.seed("contacts", {"city": "Rome", "sms_count": "10"})
    assert (await search(api, one)).json()["total"] == total


async def test_a_search_for_numbers_follows_every_write(api, stub):
    phone = "hs_searchable_calculated_phone_number"
    ids = [stub.seed("contacts", {"phone": f"+1415555012{number}"}) for number in range(3)]

    async def having(*numbers: str) -> list[str]:
        told = await search(api, a_filter(phone, "IN", values=list(numbers)))
        assert told.json()["total"] == len(told.json()["results"])
        return [each["id"] for each in told.json()["results"]]

    assert await having("4155550122", "4155550120", "4155550120") == [ids[0], ids[2]]
    path = f"/crm/objects/2026-09/contacts/{ids[0]}"
    await api.patch(path, json={"properties": {"phone": "+1 415 555 0199"}})
    assert (await having("4155550120"), await having("4155550199")) == ([], [ids[0]])
    stub.multi_status = False
    spoilt = await upsert(
        api, row("1", phone="+14155550121"), row("2", phone="+14155550121", email="none")
    )
    assert spoilt.status_code == 400
    assert await having("4155550121") == [ids[1]], "what was taken back is found"
    stub.delete("contacts", ids[1])
    assert await having("4155550121") == []


@pytest.mark.parametrize("operator", ["EQ", "LT", "IN", "NOT_IN", "CONTAINS_TOKEN"])
async def test_a_search_finds_what_each_record_alone_would_fit(api, stub, operator):
    """Of several groups one has to fit, and all filters of it, whichever of them can be indexed."""
    towns = ["Oslo", "rome", "Oslo", "", "Bonn"]
    for number, town in enumerate(towns):
        stub.seed("contacts", {"city": town, "sms_count": str(number % 2)})
    more = {"values": ["0"]} if "IN" in operator.split("_") else {"value": "0"}
    other = a_filter("sms_count", operator, **more)
    fits = {"EQ": "0", "LT": "", "IN": "0", "NOT_IN": "1", "CONTAINS_TOKEN": "0"}[operator]
    groups = [
        {"filters": [a_filter("city", "IN", values=["OSLO", "rome"]), other]},
        {"filters": [a_filter("city", "IN", values=["bonn"])]},
    ]
    told = (await search(api, filterGroups=groups, properties=["city", "sms_count"])).json()
    found = [
        (each["properties"]["city"], each["properties"]["sms_count"]) for each in told["results"]
    ]
    expected = [(town, str(number % 2)) for number, town in enumerate(towns) if town]
    assert found == [each for each in expected if each[0] == "Bonn" or each[1] == fits]


# Properties and schemas.


def a_property(**changed) -> dict:
    told = {"name": "sms_id", "label": "SMS id", "type": "string", "fieldType": "text"}
    return told | {"groupName": "contactinformation"} | changed


YES_NO = [{"label": "Yes", "value": "true"}, {"label": "No", "value": "false"}]
PROPERTIES = "/crm/properties/2026-09/contacts"


async def test_a_property_is_unique_from_its_making_or_never(api):
    made = await api.post(PROPERTIES, json=a_property(hasUniqueValue=True))
    assert (made.status_code, made.json()["hasUniqueValue"]) == (201, True)
    plain = a_property(name="plain")
    assert (await api.post(PROPERTIES, json=plain)).status_code == 201
    changed = await api.patch(PROPERTIES + "/plain", json={"hasUniqueValue": True, "label": "L"})
    assert (changed.json()["label"], changed.json()["hasUniqueValue"]) == ("L", False)
    assert (await upsert(api, row("1", sms_id="x"))).status_code == 200
    assert "already has that value" in (await upsert(api, row("2", sms_id="x"))).text


async def test_a_property_that_is_there_conflicts(api):
    refused = await api.post(PROPERTIES, json=a_property(name="sms_key"))
    assert (refused.status_code, refused.json()["category"]) == (409, "OBJECT_ALREADY_EXISTS")


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "SMS-Id"},
        {"type": "text"},
        {"fieldType": "number"},
        {"groupName": "nope"},
        {"label": None},
        {"type": "enumeration", "fieldType": "select"},
        {"type": "bool", "fieldType": "booleancheckbox"},
        {
            "type": "bool",
            "fieldType": "booleancheckbox",
            "options": YES_NO,
            "hasUniqueValue": True,
        },
        {"hasUniqueValue": "true"},
        {"unique": True},
    ],
)
async def test_a_property_that_makes_no_sense_is_refused(api, changed):
    assert (await api.post(PROPERTIES, json=a_property(**changed))).status_code == 400


async def test_ten_unique_properties_are_enough(api):
    for number in range(9):
        body = a_property(name=f"id_{number}", hasUniqueValue=True)
        assert (await api.post(PROPERTIES, json=body)).status_code == 201
    body = a_property(name="one_more", hasUniqueValue=True)
    assert (await api.post(PROPERTIES, json=body)).status_code == 400


async def test_properties_say_what_can_be_done_with_them(api):
    listed = (await api.get(PROPERTIES)).json()["results"]
    by_name = {each["name"]: each for each in listed}
    assert by_name["sms_key"]["hasUniqueValue"]
    assert by_name["createdate"]["modificationMetadata"]["readOnlyValue"]
    assert (await api.get(PROPERTIES + "/sms_key")).json() == by_name["sms_key"]
    assert (await api.get(PROPERTIES + "/nope")).status_code == 404
    assert (await api.patch(PROPERTIES + "/nope", json={})).status_code == 404
    more = {"options": [{"label": "New", "value": "new"}]}
    assert (await api.patch(PROPERTIES + "/lifecyclestage", json=more)).status_code == 200
    assert (await upsert(api, row("1", lifecyclestage="new"))).status_code == 200
    group = {"name": "sms", "label": "SMS"}
    assert (await api.post(PROPERTIES + "/groups", json=group)).status_code == 201
    assert (await api.post(PROPERTIES + "/groups", json=group)).status_code == 409
    groups = (await api.get(PROPERTIES + "/groups")).json()["results"]
    assert [each["name"] for each in groups] == ["contactinformation", "sms"]
    many = {"inputs": [a_property(name="a", groupName="sms"), a_property(name="b")]}
    assert (await api.post(PROPERTIES + "/batch/create", json=many)).status_code == 200


async def test_a_custom_object_describes_itself(api):
    (schema,) = (await api.get("/crm-object-schemas/2026-09/schemas")).json()["results"]
    assert (schema["objectTypeId"], schema["requiredProperties"]) == ("2-123", ["event_id"])
    assert "17" in [each["id"] for each in schema["associations"]]
    assert (await api.get("/crm/v3/schemas/p123_sms_event")).json()["objectTypeId"] == "2-123"
    unknown = await api.get("/crm/properties/2026-09/2-999")
    assert "Unable to infer object type from: 2-999" in unknown.json()["message"]


# Activities.


def link(type_id: int, to: str, category: str = "HUBSPOT_DEFINED") -> dict:
    types = [{"associationCategory": category, "associationTypeId": type_id}]
    return {"to": {"id": to}, "types": types}


def communication(**changed: str) -> dict:
    return {
        "hs_communication_channel_type": "SMS",
        "hs_communication_logged_from": "CRM",
        "hs_communication_body": "hello",
        "hs_timestamp": "2026-11-23T08:00:00Z",
    } | changed


async def test_communications_are_made_with_their_contacts(api, stub):
    who = stub.seed("contacts", {"sms_key": "1"})
    path = "/crm/objects/2026-09/communications/batch/create"
    good = {"properties": communication(), "associations": [link(81, who)]}
    told = await api.post(path, json={"inputs": [good | {"objectWriteTraceId": "t"}]})
    assert told.status_code == 201
    (made,) = told.json()["results"]
    assert stub.records("associations") == [
        {"fromType": "communications", "toType": "contacts", "type": "81", "to": who}
        | {"from": made["id"]}
    ]
    for bad in (link(82, who), link(81, "999"), link(81, who, "USER_DEFINED")):
        refused = await api.post(path, json={"inputs": [good, good | {"associations": [bad]}]})
        assert refused.status_code in {400, 404}
    assert len(stub.records("communications")) == len(stub.records("associations")) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"hs_communication_channel_type": "sms"},
        {"hs_communication_logged_from": "relay"},
        {"hs_timestamp": ""},
        {"hs_timestamp": "yesterday"},
        {"hs_communication_direction": "INBOUND"},
    ],
)
async def test_a_communication_is_checked_like_any_record(api, changed):
    path = "/crm/objects/2026-09/communications"
    assert (await api.post(path, json={"properties": communication(**changed)})).status_code == 400


async def test_communications_are_upserted_only_by_a_unique_property(api, stub):
    path = "/crm/objects/2026-09/communications/batch/upsert"
    each = {"id": "e1", "idProperty": "event_id", "properties": communication(event_id="e1")}
    assert (await upsert(api, each, path=path)).status_code == 400
    stub.fields["communications"]["event_id"] = Field(unique=True)
    for _ in range(2):
        assert (await upsert(api, each, path=path)).status_code == 200
    assert len(stub.records("communications")) == 1


ASSOCIATE = "/crm/associations/2026-09/2-123/contacts/batch/create"


async def test_associations_are_kept_once(api, stub):
    who, what = stub.seed("contacts", {}), stub.seed("2-123", {"event_id": "e1"})
    pair = {"from": {"id": what}} | link(17, who, "USER_DEFINED")
    for _ in range(2):
        told = await api.post(ASSOCIATE, json={"inputs": [pair]})
        assert (told.status_code, len(told.json()["results"])) == (200, 1)
    assert len(stub.records("associations")) == 1
    v4 = ASSOCIATE.replace("/crm/associations/2026-09", "/crm/v4/associations")
    assert (await api.post(v4, json={"inputs": [pair]})).status_code == 201
    labels = await api.get("/crm/associations/2026-09/2-123/contacts/labels")
    assert labels.json()["results"][0]["typeId"] == 17


async def test_associations_need_both_ends_and_a_known_type(api, stub):
    who, what = stub.seed("contacts", {}), stub.seed("2-123", {"event_id": "e1"})
    good = {"from": {"id": what}} | link(17, who, "USER_DEFINED")
    absent = {"from": {"id": what}} | link(17, "999", "USER_DEFINED")
    told = await api.post(ASSOCIATE, json={"inputs": [good, absent]})
    assert (told.status_code, told.json()["numErrors"]) == (207, 1)
    assert told.json()["errors"][0]["context"] == {"toObjectId": ["999"]}
    for bad in (link(17, who), link(19, who, "USER_DEFINED"), {"to": {"id": who}, "types": {}}):
        wrong = {"from": {"id": what}} | bad
        assert (await api.post(ASSOCIATE, json={"inputs": [wrong]})).status_code == 400
    assert (await api.post(ASSOCIATE, json={"inputs": [good] * 2001})).status_code == 400


async def test_a_custom_object_keeps_one_record_for_each_event(api, stub):
    path = "/crm/objects/2026-09/2-123/batch/upsert"
    each = {"id": "e1", "idProperty": "event_id", "properties": {"message": "hi"}}
    for _ in range(2):
        assert (await upsert(api, each, path=path)).status_code == 200
    assert stub.records("2-123") == [{"id": "501", "event_id": "e1", "message": "hi"}]


# Custom events.

SEND = "/events/2026-09/send"


def occurrence(who: str, **changed) -> dict:
    told = {"eventName": "pe123_sms", "objectId": who, "uuid": "u1", "properties": {"type": "x"}}
    return told | changed


async def test_a_repeated_event_is_taken_and_not_kept(api, stub):
    who = stub.seed("contacts", {})
    for path in (SEND, "/events/2026-09/send", "/events/v3/send"):
        told = await api.post(path, json=occurrence(who))
        assert (told.status_code, told.content) == (204, b"")
    batch = {"inputs": [occurrence(who), occurrence(who, uuid="u2")]}
    assert (await api.post(SEND + "/batch", json=batch)).status_code == 204
    assert [each["uuid"] for each in stub.records("events")] == ["u1", "u2"]
    assert stub.lost["uuid"] == 3


async def test_an_event_keeps_the_properties_it_is_defined_with(api, stub):
    definition = (await api.get("/events/v3/event-definitions/pe123_sms")).json()
    assert "keyword" in [each["name"] for each in definition["properties"]]
    assert (await api.get("/events/v3/event-definitions/pe123_x")).status_code == 404
    stub.seed("contacts", {"email": "Ann@example.com"})
    one = occurrence("", email="ann@example.com", properties={"type": "x", "nope": "y"})
    assert (await api.post(SEND, json=one)).status_code == 204
    assert stub.records("events")[0]["properties"] == {"type": "x"}
    assert stub.lost["property"] == 1


async def test_an_event_is_somebodys(api):
    nobody = {"eventName": "pe123_sms", "properties": {}}
    assert (await api.post(SEND, json=nobody)).status_code == 400


async def test_an_event_of_nobody_is_lost_without_a_word(api, stub):
    assert (await api.post(SEND, json=occurrence("999"))).status_code == 204
    assert (stub.records("events"), stub.lost["contact"]) == ([], 1)


@pytest.mark.parametrize(
    "changed",
    [
        {"eventName": "pe123_nope"},
        {"properties": {"type": 1}},
        {"properties": {"type": "x" * 257}},
        {"properties": {str(number): "x" for number in range(51)}},
        {"occurredAt": 1795392000000},
        {"occurredAt": "2026-11-23"},
        {"objectId": 501},
        {"time": "x"},
    ],
)
async def test_a_malformed_event_refuses_its_batch(api, stub, changed):
    who = stub.seed("contacts", {})
    batch = {"inputs": [occurrence(who), occurrence(who, uuid="u2") | changed]}
    assert (await api.post(SEND + "/batch", json=batch)).status_code == 400
    assert stub.records("events") == []


async def test_events_are_exempt_from_the_limits(api, stub):
    who = stub.seed("contacts", {})
    stub.burst_most = stub.api_most = 0
    told = await api.post(SEND, json=occurrence(who))
    assert told.status_code == 204
    assert not [name for name in told.headers if "ratelimit" in name]
    many = {"inputs": [occurrence(who)] * 501}
    assert (await api.post(SEND + "/batch", json=many)).status_code == 400


# Lists.


@pytest.mark.parametrize("prefix", ["/crm/lists/2026-09", "/crm/v3/lists"])
async def test_a_static_list_takes_each_record_once(api, stub, prefix):
    stub.lists["7"] = RecordList("Joined", "SNAPSHOT")
    who = stub.seed("contacts", {"sms_key": "1"})
    path = f"{prefix}/7/memberships/add"
    told = [(await api.put(path, json=[who, who, "999"])).json() for _ in range(2)]
    missing = {"recordIdsMissing": ["999"], "recordIdsRemoved": []}
    assert told == [missing | {"recordsIdsAdded": each} for each in ([who], [])]
    assert stub.lists["7"].members == [who]
    read = (await api.get(f"{prefix}/7")).json()["list"]
    assert (read["processingType"], read["objectTypeId"]) == ("SNAPSHOT", "0-1")
    assert (await api.get(f"{prefix}?listIds=8&listIds=7")).json() == {"lists": [read]}


@pytest.mark.parametrize(
    ("id_", "body", "status"),
    [("7", ["1"], 400), ("8", ["1"], 404), ("x", ["1"], 400), ("7", [1], 400), ("7", {}, 400)],
)
async def test_other_lists_take_nobody(api, stub, id_, body, status):
    stub.lists["7"] = RecordList("Active", "DYNAMIC")
    refused = await api.put(f"/crm/lists/2026-09/{id_}/memberships/add", json=body)
    assert refused.status_code == status
    assert not stub.lists["7"].members


async def test_members_are_written_with_both_scopes(api, stub):
    stub.lists["7"] = RecordList("Joined")
    stub.scopes -= {"crm.lists.write"}
    refused = await api.put("/crm/lists/2026-09/7/memberships/add", json=[])
    assert refused.json()["errors"][0]["context"]["requiredGranularScopes"] == ["crm.lists.write"]


# What no client should send.


@pytest.mark.parametrize(
    "path",
    [
        UPSERT,
        "/crm/objects/2026-09/contacts/batch/read",
        "/crm/objects/2026-09/contacts/batch/create",
        ASSOCIATE,
        SEND + "/batch",
        PROPERTIES + "/batch/create",
    ],
)
async def test_junk_is_refused_in_the_usual_envelope(api, path):
    for junk in ([], "x", True, 1, {"inputs": {}}, {"inputs": []}, {"inputs": [1]}):
        refused = await api.post(path, json=junk)
        assert (refused.status_code, refused.json()["category"]) == (400, "VALIDATION_ERROR"), junk


async def test_media_type_method_and_json_are_checked(api):
    form = await api.post(UPSERT, data={"inputs": "x"})
    put = await api.put(UPSERT, json={})
    broken = await api.post(UPSERT, content=b"{", headers={"content-type": "application/json"})
    assert [form.status_code, put.status_code, broken.status_code] == [415, 405, 400]
