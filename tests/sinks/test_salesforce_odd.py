"""Answers that Salesforce should not give, and templates that fail: no record is lost over them."""

import dataclasses

import httpx
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from salesforcesink import (
    ACTIVITY,
    COLUMNS,
    LOG,
    SIGN_IN,
    Salesforce,
    connected,
    delivered,
    delivery,
    errors,
    key,
    mobile,
    options,
    records,
    upsert,
)

import relay
from relay.outcome import Outcome
from relay.templating.expressions import Compiler

TOKEN = {"access_token": "t", "token_type": "Bearer"}


def answering(answer, **values):
    """A sink whose every data request gets this JSON."""

    def handle(request):
        content = TOKEN if "/oauth2/" in request.url.path else answer
        return httpx.Response(200, content=orjson.dumps(content))

    http = httpx.AsyncClient(transport=httpx.MockTransport(handle))
    return Salesforce("crm", options("https://acme.example", **values), http, LOG, COLUMNS)


@pytest.mark.parametrize(
    "result",
    [
        None,
        "odd",
        {},
        {"success": True},
        {"success": True, "id": 7},
        {"success": "true", "id": "003"},
    ],
)
async def test_a_result_of_another_form_is_no_success(result):
    (outcome,) = await answering([result]).send_batch([delivery(1)])
    assert type(outcome) is relay.Retry


@pytest.mark.parametrize("answer", [None, {}, [], [{}, {}], "odd"])
async def test_an_answer_without_a_word_about_each_record_is_tried_again(answer):
    (outcome,) = await answering(answer).send_batch([delivery(1)])
    assert type(outcome) is relay.Retry


NAMES = [
    "records",
    "searchRecords",
    "success",
    "errors",
    "id",
    "Id",
    "statusCode",
    "errorCode",
    "message",
    "fields",
    "duplicateResult",
    "SMS_Key__c",
    "MobilePhone",
    "attributes",
    "type",
    "name",
    "IsConverted",
    "ConvertedContactId",
]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from(["", "Id", "003", "success", "Lead"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("objects", [["Contact"], ["Contact", "Lead"]])
@settings(max_examples=150, deadline=None, derandomize=True)
@given(answers=st.lists(st.tuples(st.sampled_from([200, 200, 400, 403]), JSON), max_size=4))
async def test_whatever_is_answered_each_delivery_has_an_outcome(objects, answers):
    """Or all have one, where it is raised."""
    waiting = iter(answers)

    def handle(request):
        if "/oauth2/" in request.url.path:
            return httpx.Response(200, content=orjson.dumps(TOKEN))
        status, content = next(waiting, (200, []))
        return httpx.Response(status, content=orjson.dumps(content))

    given_options = options(
        "https://acme.example",
        objects=objects,
        activity=ACTIVITY if len(objects) == 1 else None,
        match=["key", "phone"],
        on_invalid="drop",
        duplicates="use_match",
        campaign={"id": "701000000000001"},
    )
    async with httpx.AsyncClient(transport=httpx.MockTransport(handle)) as http:
        sink = Salesforce("crm", given_options, http, LOG, COLUMNS)
        try:
            outcomes = await sink.send_batch([delivery(1), delivery(2)])
        except (relay.Retry, relay.Pause):
            return
    assert len(outcomes) == 2
    assert all(isinstance(each, Outcome) for each in outcomes)


@pytest.mark.parametrize("known", [{}, {"Id": None}, {"Id": ["003"]}, {"Id": 3}])
@pytest.mark.parametrize("name", ["records", "searchRecords"])
async def test_a_record_without_its_id_is_nobody(name, known):
    """Neither is the word of consent taken for written, nor a second record made."""
    record = {"SMS_Key__c": key(1), "MobilePhone": mobile(1)} | known
    answer = {"records": [], "searchRecords": []} | {name: [record]}
    sink = answering(answer, consent={"field": "SMS_Opt_Out__c"}, match=["key", "phone"])
    word = dataclasses.replace(delivery(1), record=None, last_word="opt_out")
    (outcome,) = await sink.send_batch([word])
    assert isinstance(outcome, relay.Retry)
    assert "a record without its id" in outcome.reason
    with pytest.raises(relay.Retry, match="a record without its id"):
        await sink.send_batch([delivery(1)])


async def test_a_sign_in_without_an_instance_stays_where_it_is():
    sink = answering([{"success": True, "id": "003", "errors": []}])
    assert delivered(await sink.send_batch([delivery(1)])) == [True]


async def test_a_success_with_errors_beside_it_is_one():
    """So platform events answer."""
    enqueued = {"statusCode": "OPERATION_ENQUEUED", "message": "m", "fields": []}
    sink = answering([{"success": True, "id": "e00", "errors": [enqueued]}])
    assert delivered(await sink.send_batch([delivery(1)])) == [True]


async def test_a_sign_in_without_a_token_is_tried_again():
    async with connected() as (stub, sink):
        stub.fault("empty", on="/oauth2/")
        (outcome,) = await sink.send_batch([delivery(1)])
    assert type(outcome) is relay.Retry


@pytest.mark.parametrize("on", ["/query", "/search"])
async def test_a_lookup_without_json_is_tried_again(on):
    async with connected(match=["key", "phone"]) as (stub, sink):
        stub.fault("not_json", on=on)
        with pytest.raises(relay.Retry, match="without JSON"):
            await sink.send_batch([delivery(1)])


async def test_a_lookup_that_is_refused_for_a_reason_of_its_own_pauses():
    async with connected(match=["key", "phone"]) as (stub, sink):
        stub.fault_answer(400, "MALFORMED_QUERY", "unexpected token", on="/query")
        with pytest.raises(relay.Pause, match="MALFORMED_QUERY"):
            await sink.send_batch([delivery(1)])


@pytest.mark.parametrize(("fault", "outcome"), [("502", relay.Retry), (None, relay.Delivered)])
async def test_a_duplicate_that_is_asked_about_alone(fault, outcome):
    async with connected(duplicates="use_match") as (stub, sink):
        stub.fault_row("DUPLICATES_DETECTED")
        if fault:
            stub.fault(fault, on="/sobjects/Contact/")
        (found,) = await sink.send_batch([delivery(1)])
    assert type(found) is outcome


async def test_a_template_of_the_activity_that_fails_writes_no_contact():
    activity = ACTIVITY | {"map": {"Message__c": "{{ data.message.strip() }}"}}
    async with connected(activity=activity) as (stub, sink):
        (outcome,) = await sink.send_batch([delivery(1, message=None)])
    assert type(outcome) is relay.Reject
    assert stub.calls == []


async def test_a_stale_delivery_whose_key_takes_an_event_is_written():
    template = "{{ data.mobile | digits }}-{{ data.keyword.lower() }}"
    async with connected(key=template) as (stub, sink):
        assert delivered(await sink.send_batch([delivery(1, stale=True)])) == [True]
        assert await sink.setup(backfill=True) == [
            "no keys are filled in: they are made of more than the number (options.key)"
        ]
    assert stub.records("Contact")[0]["SMS_Key__c"] == f"{key(1)}-join"


async def test_a_record_that_is_no_json_is_dead_alone():
    batch = [delivery(1, {"FirstName": 2**70}), delivery(2)]
    async with connected() as (_, sink):
        outcomes = await sink.send_batch(batch)
    assert delivered(outcomes) == [False, True]
    assert "JSON" in outcomes[0].reason


async def test_the_backfill_stops_where_the_sink_would():
    async with connected() as (stub, sink):
        stub.seed("Contact", {"LastName": "Doe", "MobilePhone": mobile(1)})
        stub.fault("disabled", on="/composite/")
        with pytest.raises(relay.Pause, match="API_DISABLED"):
            await sink.setup(backfill=True)


def repair(**values):
    model = Salesforce.Options.model_validate(
        {"login_url": "https://acme.example", **SIGN_IN, **values},
        context={"environment": Compiler()},
    )
    return upsert.Repair(model, LOG)


def refused(code, message="", fields=()):
    made = records.Row(delivery(1), key(1), {"Email": "bad"})
    made.api_errors = [errors.ApiError(None, code, message, tuple(fields))]
    return made


def test_a_missing_field_can_stand_in_the_message_alone():
    made = refused("REQUIRED_FIELD_MISSING", "Required fields are missing: [LastName, Title]")
    assert repair(defaults={"LastName": "a", "Title": "b"}).apply(made)
    assert made.fields == {"Email": "bad", "LastName": "a", "Title": "b"}


@pytest.mark.parametrize(
    ("code", "message", "fields"),
    [
        ("REQUIRED_FIELD_MISSING", "", ()),
        ("INVALID_EMAIL_ADDRESS", "", ()),
        ("INVALID_EMAIL_ADDRESS", "", ("Other__c",)),  # a trigger's
        ("STRING_TOO_LONG", "(max length=3)", ("Other__c",)),
        ("FIELD_CUSTOM_VALIDATION_EXCEPTION", "", ("Email",)),
        ("ENTITY_IS_DELETED", "", ()),  # no record was looked up
    ],
)
def test_what_is_not_the_records_is_not_mended(code, message, fields):
    assert not repair(on_invalid="truncate").apply(refused(code, message, fields))


def test_of_two_errors_both_must_be_mended():
    made = refused("INVALID_EMAIL_ADDRESS", fields=["Email"])
    made.api_errors.append(errors.ApiError(None, "UNABLE_TO_LOCK_ROW", ""))
    assert not repair(on_invalid="drop").apply(made)
    assert type(errors.outcome_of_errors(made.api_errors, errors.RULES)) is relay.Reject
