"""The HubSpot stub is as strict as its docstrings say, and every fault can be had."""

import httpx
import orjson
import pytest
from clock import ManualClock
from stubs.hubspot import HubSpotStub
from stubs.hubspot_errors import ROWS
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
        httpx.AsyncClient(base_url=url, headers=bearer, timeout=5, trust_env=False) as client,
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


@pytest.mark.parametrize("code", ROWS)
async def test_every_row_can_be_ordered(api, stub, code):
    stub.fault_row(code, id="2")
    told = await upsert(api, row("1", "a"), row("2", "b"))
    assert told.status_code == 207
    (error,) = told.json()["errors"]
    assert error["context"]["objectWriteTraceId"] == ["b"]
    assert stub.fired == {code: 1}
    assert (await upsert(api, row("2", "b"))).status_code == 200


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


def test_fields_can_be_made_by_hand():
    assert Field(unique=True).told("x")["hasUniqueValue"]
