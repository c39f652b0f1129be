"""What the hubspot sink makes of records that HubSpot refuses, as the options say."""

import logging

import pytest
from hubspotsink import delivery, key, kinds, opened
from stubs.hubspot import HubSpotStub
from stubs.hubspot_schema import Field
from stubs.vendor import serving

import relay

BAD = {"email": "no address"}
BOTH_ANSWERS = pytest.mark.parametrize("multi_status", [True, False])


@pytest.fixture
async def stub():
    stub = HubSpotStub()
    async with serving(stub.app) as stub.url:
        yield stub


def contact(stub, number):
    (found,) = [each for each in stub.records("contacts") if each.get("sms_key") == key(number)]
    return found


# on_invalid


@BOTH_ANSWERS
@pytest.mark.parametrize("options", [{}, {"on_invalid": "drop"}], ids=["by default", "drop"])
async def test_drop_sends_the_record_once_more_without_what_was_refused(
    stub, multi_status, options, caplog
):
    stub.multi_status = multi_status
    batch = [delivery(1), delivery(2, BAD | {"sms_count": "many"}), delivery(3)]
    async with opened(stub.url, **options) as sink:
        outcomes = await sink.send_batch(batch)
    assert kinds(outcomes) == ["Delivered"] * 3
    said = "without email: INVALID_EMAIL; without sms_count: INVALID_INTEGER"
    assert [each.note for each in outcomes] == [None, said, None]
    assert f"{batch[1].id}: without email" in caplog.text
    assert "no address" not in caplog.text + said
    kept = contact(stub, 2)
    assert kept["firstname"] == "Ann 2"
    assert "email" not in kept
    assert "sms_count" not in kept
    assert len(stub.calls) == (2 if multi_status else 4)


@BOTH_ANSWERS
async def test_values_that_hubspot_tells_of_one_after_the_other_are_all_left_out(
    stub, multi_status
):
    stub.multi_status, stub.all_errors = multi_status, False
    bad = BAD | {"sms_count": "many", "lifecyclestage": "fan"}
    async with opened(stub.url) as sink:
        (outcome,) = await sink.send_batch([delivery(1, bad)])
    assert isinstance(outcome, relay.Delivered)
    assert contact(stub, 1).keys().isdisjoint(bad)


async def test_drop_sends_all_that_were_refused_in_one_request(stub):
    batch = [delivery(number, BAD) for number in range(100)]
    async with opened(stub.url, on_invalid="drop") as sink:
        assert set(kinds(await sink.send_batch(batch))) == {"Delivered"}
    assert len(stub.calls) == 2


async def test_what_is_refused_again_is_dead(stub):
    stub.fault_row("INVALID_EMAIL", id=key(1), count=2, name="email")
    async with opened(stub.url, on_invalid="drop") as sink:
        (outcome,) = await sink.send_batch([delivery(1, {"email": "a@b.example"})])
    assert isinstance(outcome, relay.Reject)
    assert len(stub.calls) == 2


async def test_the_key_is_never_dropped(stub):
    stub.fields["contacts"]["sms_key"].length = 3
    async with opened(stub.url, on_invalid="drop") as sink:
        assert kinds(await sink.send_batch([delivery(1)])) == ["Reject"]


async def test_truncate_cuts_what_is_too_long_and_leaves_out_what_is_wrong_otherwise(stub):
    stub.fields["contacts"]["city"].length = 10
    batch = [delivery(1, {"message": "x" * 70_000}), delivery(2, BAD | {"city": "y" * 11})]
    async with opened(stub.url, on_invalid="truncate") as sink:
        outcomes = await sink.send_batch(batch)
    assert outcomes[0].note == "message cut to 65,536 characters"
    assert outcomes[1].note == ("without email: INVALID_EMAIL; without city: INVALID_STRING_LENGTH")
    assert contact(stub, 1)["message"] == "x" * 65_536
    assert contact(stub, 2).keys().isdisjoint({"email", "city"})


async def test_a_read_only_property_is_dropped_only_if_told(stub):
    record = {"createdate": "2026-01-01T00:00:00Z"}
    async with opened(stub.url, on_invalid="dead") as sink:
        (outcome,) = await sink.send_batch([delivery(1, record)])
        assert isinstance(outcome, relay.Reject)
        assert "READ_ONLY_VALUE createdate" in outcome.reason
        assert outcome.status, "five in a row pause: the map alone can be the cause"
    async with opened(stub.url, on_invalid="drop") as sink:
        assert kinds(await sink.send_batch([delivery(1, record)])) == ["Delivered"]


# unknown_property


@BOTH_ANSWERS
async def test_an_unknown_property_pauses_and_says_what_to_do(stub, multi_status):
    stub.multi_status = multi_status
    batch = [delivery(1, {"nickname": "A"}), delivery(2, {"nickname": "B"})]
    async with opened(stub.url) as sink:
        outcomes = await sink.send_batch(batch)
    assert kinds(outcomes) == ["Pause"] * 2
    assert "nickname" in outcomes[0].reason
    assert "relay setup" in outcomes[0].reason
    assert len(stub.calls) == 1


@BOTH_ANSWERS
async def test_drop_goes_on_without_an_unknown_property_and_remembers_it(
    stub, multi_status, caplog
):
    stub.multi_status = multi_status
    async with opened(stub.url, unknown_property="drop") as sink:
        for start in (0, 100):
            batch = [delivery(start + n, {"nickname": "A"}) for n in range(100)]
            assert set(kinds(await sink.send_batch(batch))) == {"Delivered"}
    assert len(stub.calls) == 3
    assert len(stub.records("contacts")) == 200
    told = [each for each in caplog.records if "nickname" in each.getMessage()]
    assert [each.levelno for each in told] == [logging.WARNING]


async def test_a_whole_batch_with_an_unknown_and_a_bad_property_ends_well(stub):
    stub.multi_status = False
    batch = [delivery(number, {"nickname": "A"}) for number in range(20)]
    batch[7] = delivery(7, BAD | {"nickname": "A"})
    async with opened(stub.url, unknown_property="drop", on_invalid="dead") as sink:
        outcomes = await sink.send_batch(batch)
    assert kinds(outcomes).count("Delivered") == 19
    assert isinstance(outcomes[7], relay.Reject)


@BOTH_ANSWERS
async def test_unknown_properties_of_different_records_are_all_left_out(stub, multi_status):
    stub.multi_status = multi_status
    batch = [delivery(1, {"nickname": "A"}), delivery(2, {"color": "B"}), delivery(3)]
    async with opened(stub.url, unknown_property="drop") as sink:
        assert kinds(await sink.send_batch(batch)) == ["Delivered"] * 3


async def test_an_id_property_that_is_not_there_pauses_even_so(stub):
    stub.fault_row("PROPERTY_DOESNT_EXIST", name="sms_key")
    async with opened(stub.url, unknown_property="drop") as sink:
        assert kinds(await sink.send_batch([delivery(1)])) == ["Pause"]


# defaults


@pytest.mark.parametrize("version", ["v3", "2026-09"])
@BOTH_ANSWERS
async def test_a_default_is_given_only_where_hubspot_asks_for_it(stub, multi_status, version):
    stub.multi_status = multi_status
    stub.fields["contacts"]["lastname"] = Field(required=True)
    batch = [delivery(1, {"lastname": "Doe"}), delivery(2), delivery(3)]
    defaults = {"lastname": "Unknown", "city": "Nowhere"}
    async with opened(stub.url, api_version=version, defaults=defaults) as sink:
        assert kinds(await sink.send_batch(batch)) == ["Delivered"] * 3
    assert [contact(stub, n)["lastname"] for n in (1, 2, 3)] == ["Doe", "Unknown", "Unknown"]
    assert "city" not in contact(stub, 2)
    assert len(stub.calls) == 2 or not multi_status


async def test_a_required_property_without_a_default_is_told(stub):
    stub.fields["contacts"]["lastname"] = Field(required=True)
    async with opened(stub.url) as sink:
        (outcome,) = await sink.send_batch([delivery(1)])
    assert isinstance(outcome, relay.Reject)
    assert "lastname" in outcome.reason
    assert "defaults" in outcome.reason


async def test_an_administrators_rule_is_met_with_a_default(stub):
    stub.fields["contacts"]["company"] = Field(required_when=("lifecyclestage", "customer"))
    options = {"defaults": {"company": "unknown"}}
    async with opened(stub.url, **options) as sink:
        sent = delivery(1, {"lifecyclestage": "customer"})
        assert kinds(await sink.send_batch([sent])) == ["Delivered"]
    assert contact(stub, 1)["company"] == "unknown"


# only_if_empty


async def test_what_has_a_value_is_left_alone(stub):
    stub.seed("contacts", {"sms_key": key(1), "lifecyclestage": "customer"})
    stub.seed("contacts", {"sms_key": key(2)})
    lead = {"lifecyclestage": "lead"}
    batch = [delivery(1, lead), delivery(2, lead), delivery(3, lead), delivery(4)]
    async with opened(stub.url, only_if_empty=["lifecyclestage"]) as sink:
        assert kinds(await sink.send_batch(batch)) == ["Delivered"] * 4
    stages = [contact(stub, n).get("lifecyclestage") for n in (1, 2, 3, 4)]
    assert stages == ["customer", "lead", "lead", None]
    assert len(stub.calls) == 2


# another contact has it


SHARED = {"email": "ann@home.example"}


@BOTH_ANSWERS
@pytest.mark.parametrize("code", [None, "CONTACT_EXISTS"])
async def test_a_contact_of_the_same_address_is_another_persons(stub, multi_status, code, caplog):
    """A family shares it: a sink that matches by key alone takes over nobody's contact."""
    stub.multi_status = multi_status
    other = stub.seed("contacts", SHARED | {"firstname": "Bob"})
    if code:
        stub.fault_row(code, id=key(1), name="email")
    async with opened(stub.url) as sink:
        (outcome,) = await sink.send_batch([delivery(1, {"email": "Ann@home.example"})])
    assert isinstance(outcome, relay.Delivered)
    assert outcome.reference != other
    assert outcome.note.startswith("without email, which ")
    assert stub.records("contacts")[0] == {"id": other, **SHARED, "firstname": "Bob"}
    assert "email" not in contact(stub, 1)
    assert "without email" in caplog.text
    assert "home.example" not in caplog.text + outcome.note


@pytest.mark.parametrize(
    "options", [{"on_conflict": "adopt"}, {"match": ["key", "email"]}], ids=["adopt", "match"]
)
async def test_an_existing_contact_of_the_same_address_gets_the_key_where_asked_for(stub, options):
    other = stub.seed("contacts", SHARED | {"lifecyclestage": "customer"})
    sent = delivery(1, {"email": "Ann@home.example", "lifecyclestage": "lead"})
    async with opened(stub.url, only_if_empty=["lifecyclestage"], **options) as sink:
        (outcome,) = await sink.send_batch([sent])
        assert outcome == relay.Delivered(other)
        (outcome,) = await sink.send_batch([sent])
        assert outcome == relay.Delivered(other)
    assert len(stub.records("contacts")) == 1
    assert contact(stub, 1)["lifecyclestage"] == "customer"


async def test_who_is_adopted_keeps_what_a_new_contact_is_given_by_default(stub):
    stub.seed("contacts", SHARED | {"lastname": "Doe"})
    stub.fields["contacts"]["lastname"].required = True
    async with opened(stub.url, on_conflict="adopt", defaults={"lastname": "Unknown"}) as sink:
        outcomes = await sink.send_batch([delivery(1, SHARED), delivery(2)])
    assert kinds(outcomes) == ["Delivered"] * 2
    assert [contact(stub, each)["lastname"] for each in (1, 2)] == ["Doe", "Unknown"]


@pytest.mark.parametrize("on_conflict", ["separate", "adopt", "dead"])
async def test_an_address_of_somebody_with_another_key_stays_theirs(stub, on_conflict):
    stub.seed("contacts", SHARED | {"sms_key": "9"})
    async with opened(stub.url, on_conflict=on_conflict) as sink:
        (outcome,) = await sink.send_batch([delivery(1, SHARED)])
    if on_conflict == "dead":
        assert isinstance(outcome, relay.Reject)
        assert "501" in outcome.reason
        assert "merge" in outcome.reason
        assert "ann@home" not in outcome.reason
        assert len(stub.records("contacts")) == 1
    else:
        assert outcome.note == "without email, which record 501 has"
        assert [each.get("email") for each in stub.records("contacts")] == [SHARED["email"], None]
    assert stub.records("contacts")[0]["sms_key"] == "9"


@pytest.mark.parametrize("on_conflict", ["separate", "adopt"])
async def test_two_numbers_with_one_address_do_not_share_a_contact(stub, on_conflict):
    stub.seed("contacts", SHARED)
    batch = [delivery(1, SHARED), delivery(2, SHARED)]
    async with opened(stub.url, on_conflict=on_conflict) as sink:
        assert kinds(await sink.send_batch(batch)) == ["Delivered"] * 2
        assert kinds(await sink.send_batch(batch)) == ["Delivered"] * 2
    assert len(stub.records("contacts")) == (3 if on_conflict == "separate" else 2)


async def test_a_family_that_is_new_becomes_a_contact_each(stub):
    batch = [delivery(1, SHARED), delivery(2, SHARED), delivery(3, SHARED)]
    async with opened(stub.url) as sink:
        outcomes = await sink.send_batch(batch)
    assert kinds(outcomes) == ["Delivered"] * 3
    assert [contact(stub, n)["firstname"] for n in (1, 2, 3)] == ["Ann 1", "Ann 2", "Ann 3"]
    assert len([each for each in stub.records("contacts") if "email" in each]) == 1


@pytest.mark.parametrize("match", [["key"], ["key", "email"]])
async def test_an_address_that_moves_to_a_known_contact_stays_where_it_is(stub, match):
    stub.seed("contacts", SHARED)
    stub.seed("contacts", {"sms_key": key(1)})
    sent = delivery(1, SHARED)
    async with opened(stub.url, match=match, on_conflict="dead") as sink:
        assert kinds(await sink.send_batch([sent])) == ["Reject"]
    async with opened(stub.url, match=match) as sink:
        assert kinds(await sink.send_batch([sent])) == ["Delivered"]
    assert len(stub.records("contacts")) == 2
    assert contact(stub, 1)["firstname"] == "Ann 1"


async def test_what_a_known_contact_cannot_have_costs_one_call_more(stub):
    stub.seed("contacts", {"email": "ann@home.example"})
    sent = delivery(1, {"email": "ann@home.example"})
    async with opened(stub.url, match=["key", "email"], on_invalid="drop") as sink:
        await sink.send_batch([delivery(1)])
        before = len(stub.calls)
        assert kinds(await sink.send_batch([sent])) == ["Delivered"]
    assert len(stub.calls) == before + 2


@pytest.mark.parametrize("count", [1, 3])
async def test_a_vanished_contact_is_not_taken_for_a_wrong_path(stub, count):
    for number in range(count):
        stub.seed("contacts", {"email": f"ann{number}@home.example"})
    batch = [delivery(n, {"email": f"ann{n}@home.example"}) for n in range(count)]
    stub.fault("object_not_found", on="batch/update")
    async with opened(stub.url, match=["key", "email"], on_invalid="drop") as sink:
        assert kinds(await sink.send_batch(batch)) == ["Delivered"] * count
    assert len(stub.records("contacts")) == count


async def test_a_conflict_in_a_batch_refused_as_a_whole_is_found(stub):
    stub.multi_status = False
    old = stub.seed("contacts", {"email": "ann3@home.example"})
    batch = [delivery(n, {"email": f"ann{n}@home.example"}) for n in range(10)]
    async with opened(stub.url, on_conflict="adopt") as sink:
        outcomes = await sink.send_batch(batch)
    assert kinds(outcomes) == ["Delivered"] * 10
    assert outcomes[3].reference == old
    assert len(stub.records("contacts")) == 10


async def test_a_contact_that_vanishes_before_it_is_written_is_made_anew(stub):
    sent = delivery(1, {"email": "ann@home.example"})
    stub.seed("contacts", {"email": "ann@home.example"})
    async with opened(stub.url, match=["key", "email"]) as sink:
        stub.fault_row("OBJECT_NOT_FOUND", count=1)
        stub.shelves["contacts"].records.clear()
        assert kinds(await sink.send_batch([sent])) == ["Delivered"]
    assert len(stub.records("contacts")) == 1
