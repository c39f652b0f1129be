"""Constants of relay.yaml against the account: check names those that HubSpot never takes."""

import pytest
from hubspotsink import delivery, opened
from stubs.hubspot import HubSpotStub
from stubs.hubspot_schema import Field
from stubs.vendor import serving

import relay

OBJECT = {"type": "2-123", "id_property": "event_id", "association": 17}
WRONG = [
    ("lifecyclestage", "Lead", "'Lead' is none of subscriber, lead, "),
    ("lifecyclestage", "custmer", 'other; did you mean "customer"?'),
    ("hobbies", ["golf", "tennis"], "'tennis' is none of golf, chess, running"),
    ("hobbies", ";tennis", "'tennis' is none of"),
    ("sms_opt_out", "yes", "'yes' is none of true, false"),
    ("sms_opt_out", 1, "'1' is none of true, false"),
    ("sms_count", "many", "'many' is no number"),
    ("sms_count", True, "'true' is no number"),
    ("sms_joined", "12/31/2000", "'12/31/2000' is no date"),
    ("sms_joined", 20001231, "'20001231' is no date"),
    ("sms_last_at", "yesterday", "'yesterday' is no date and time"),
    ("email", "nobody", "it is no e-mail address"),
    ("city", "x" * 65_537, "it is longer than 65536 characters"),
]
RIGHT = [
    ("lifecyclestage", "lead"),
    ("hobbies", ["golf", "chess"]),
    ("hobbies", ";golf"),
    ("sms_opt_out", True),
    ("sms_opt_out", "false"),
    ("sms_count", 1.5),
    ("sms_joined", "2000-12-31"),
    ("sms_joined", 978_220_800_000),
    ("sms_last_at", "2026-11-23T04:34:00Z"),
    ("email", "a@example.com"),
    ("city", "x" * 65_536),
    ("lifecyclestage", None),
]


@pytest.fixture
async def stub():
    stub = HubSpotStub()
    async with serving(stub.app) as stub.url:
        yield stub


@pytest.mark.parametrize(("name", "value", "why"), WRONG)
async def test_a_constant_that_can_never_be_written_is_named_and_holds_no_pause(
    stub, name, value, why
):
    async with opened(stub.url, constants={name: value}, on_invalid="dead") as sink:
        (told,) = await sink.check()
        (outcome,) = await sink.send_batch([delivery(1, {name: value})])
    assert told.startswith(f"map.{name}: ")
    assert why in told
    assert len(told) < 200
    assert isinstance(told, relay.Mistake)
    assert isinstance(outcome, relay.Reject)


@pytest.mark.parametrize(("name", "value"), RIGHT)
async def test_a_constant_that_the_account_takes_is_well(stub, name, value):
    async with opened(stub.url, constants={name: value}, on_invalid="dead") as sink:
        assert await sink.check() == []
        (outcome,) = await sink.send_batch([delivery(1, {name: value})])
    assert isinstance(outcome, relay.Delivered)


async def test_options_that_hubspot_has_elsewhere_are_not_known(stub):
    stub.fields["contacts"]["owner"] = Field("enumeration", "select", options=[])
    async with opened(stub.url, constants={"owner": "42"}) as sink:
        assert await sink.check() == []


async def test_the_constants_of_everything_else_are_named_too(stub):
    stub.fields["2-123"]["sms_kind"] = Field("enumeration", "select", options=["join", "stop"])
    options = {
        "constants": {"unheard": "x"},
        "columns": ("unheard",),
        "defaults": {"sms_count": "many", "hobbies": "golf;chess"},
        "consent": {"fields": {"lifecyclestage": {"opted_out": "gone", "opted_in": "lead"}}},
        "activity": {
            "object": OBJECT | {"map": {"sms_kind": "Stop", "occurred_at": "{{ time }}"}},
            "defaults": {"occurred_at": "now"},
        },
    }
    async with opened(stub.url, **options) as sink:
        told = await sink.check()
    assert [line.rpartition(": ")[0] for line in told] == [
        "map.unheard",
        "options.defaults.sms_count",
        "options.consent.opted_out: lifecyclestage",
        "options.activity.object.map.sms_kind",
        "options.activity.defaults.occurred_at",
    ]
    assert [isinstance(line, relay.Mistake) for line in told] == [False, *[True] * 4]


async def test_the_constants_of_a_custom_event_are_held_against_its_definition(stub):
    stub.events_known["pe123_sms"] |= {"kind"}
    stub.event_fields["kind"] = Field("enumeration", "select", options=["join", "stop"])
    made = {"event": {"name": "pe123_sms", "map": {"kind": "Stop", "message": "x", "mesage": "x"}}}
    async with opened(stub.url, activity=made) as sink:
        wrong, unknown = sorted(await sink.check())
    assert wrong.startswith("options.activity.event.map.kind: 'Stop' is none of join, stop")
    assert isinstance(unknown, relay.Mistake)  # HubSpot leaves it out, and takes the rest
