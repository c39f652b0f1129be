"""Whom the hubspot sink finds in HubSpot, and how many calls it takes."""

import asyncio
import dataclasses

import httpx
import pytest
from hubspotsink import (
    LOG,
    MAP,
    HubSpot,
    delivery,
    key,
    kinds,
    mobile,
    opened,
    options,
)
from stubs.hubspot import HubSpotStub
from stubs.vendor import serving

import relay

ALL = ["key", "phone", "email"]


@pytest.fixture
async def stub():
    stub = HubSpotStub()
    async with serving(stub.app) as stub.url:
        yield stub


def keys(stub):
    """The keys by the contacts' ids."""
    return {each["id"]: each.get("sms_key") for each in stub.records("contacts")}


def calls(stub):
    return [call.path.rsplit("contacts/", 1)[1] for call in stub.calls]


def spoken(number):
    """As somebody may have typed it."""
    digits = mobile(number)[2:]
    return f"({digits[:3]}) {digits[3:6]}-{digits[6:]}"


@pytest.mark.parametrize("name", ["phone", "mobilephone"])
@pytest.mark.parametrize("write", [mobile, spoken])
async def test_a_person_without_a_key_is_found_by_phone_and_gets_it(stub, name, write):
    old = stub.seed("contacts", {name: write(1), "city": "Tampa"})
    async with opened(stub.url, match=["key", "phone"]) as sink:
        outcomes = await sink.send_batch([delivery(1)])
    assert outcomes == [relay.Delivered(old)]
    assert keys(stub) == {old: key(1)}
    assert stub.records("contacts")[0]["city"] == "Tampa"


async def test_a_hundred_are_looked_for_with_one_question_each(stub):
    for number in range(50, 100):
        stub.seed("contacts", {"phone": spoken(number)})
    batch = [delivery(number) for number in range(100)]
    async with opened(stub.url, match=["key", "phone"]) as sink:
        assert set(kinds(await sink.send_batch(batch))) == {"Delivered"}
    assert calls(stub) == ["batch/read", "search", "batch/upsert", "batch/update"]
    assert len(stub.records("contacts")) == 100
    assert sorted(keys(stub).values()) == sorted(key(number) for number in range(100))


async def test_a_question_names_each_property_once(stub, monkeypatch):
    asked = []
    async with opened(stub.url, match=["key", "phone"]) as sink:
        post = sink._client.post

        async def noted(path, content):
            asked.extend(content["properties"] if path.endswith("/search") else [])
            return await post(path, content)

        monkeypatch.setattr(sink._client, "post", noted)
        await sink.send_batch([delivery(1)])
    assert sorted(asked) == ["mobilephone", "phone", "sms_key"]


async def test_nobody_is_looked_for_twice(stub):
    async with opened(stub.url, match=ALL) as sink:
        for _ in range(3):
            await sink.send_batch([delivery(1), delivery(2)])
    assert calls(stub) == ["batch/read", "search", *["batch/upsert"] * 3]


async def test_who_is_there_by_key_is_not_looked_for_by_phone(stub):
    stub.seed("contacts", {"sms_key": key(1)})
    stub.seed("contacts", {"phone": mobile(1)})
    async with opened(stub.url, match=ALL) as sink:
        await sink.send_batch([delivery(1)])
    assert calls(stub) == ["batch/read", "batch/upsert"]


@pytest.mark.parametrize(
    "others",
    [
        [{"phone": spoken(1)}, {"mobilephone": mobile(1)}],
        [{"phone": mobile(1), "sms_key": "another"}],
    ],
)
async def test_where_nobody_can_tell_who_it_is_a_new_contact_is_made_and_told(stub, others, caplog):
    for other in others:
        stub.seed("contacts", other)
    async with opened(stub.url, match=["key", "phone"]) as sink:
        assert kinds(await sink.send_batch([delivery(1)])) == ["Delivered"]
    assert len(stub.records("contacts")) == len(others) + 1
    (told,) = caplog.messages
    assert "merge" in told
    assert mobile(1) not in told


async def test_the_same_digits_in_another_country_are_another_number(stub):
    other = stub.seed("contacts", {"phone": "+44 2125 550001"})
    async with opened(stub.url, match=["key", "phone"]) as sink:
        await sink.send_batch([delivery(1)])
    assert keys(stub)[other] is None
    assert len(stub.records("contacts")) == 2


async def test_a_number_without_its_country_is_of_the_country_in_the_options(stub):
    old = stub.seed("contacts", {"phone": "+447400123456"})
    async with opened(stub.url, match=["key", "phone"], country="GB") as sink:
        outcomes = await sink.send_batch([delivery(1, mobile="+447400123456")])
    assert outcomes == [relay.Delivered(old)]


async def test_more_answers_than_a_page_holds_are_all_read(stub):
    for _ in range(150):
        stub.seed("contacts", {"phone": mobile(1)})
        stub.seed("contacts", {"phone": mobile(2)})
    last = stub.seed("contacts", {"phone": mobile(3)})
    async with opened(stub.url, match=["key", "phone"]) as sink:
        outcomes = await sink.send_batch([delivery(1), delivery(2), delivery(3)])
    assert outcomes[2] == relay.Delivered(last)
    assert calls(stub).count("search") == 2


async def test_one_contact_gets_one_key_even_if_two_of_a_batch_have_its_number(stub):
    stub.seed("contacts", {"phone": mobile(1)})
    options = {"match": ["key", "phone"], "key": "{{ data.keyword }}"}
    batch = [delivery(1, keyword="A"), delivery(1, keyword="B")]
    async with opened(stub.url, **options) as sink:
        assert kinds(await sink.send_batch(batch)) == ["Delivered"] * 2
    assert sorted(keys(stub).values()) == ["A", "B"]


async def test_a_person_is_found_by_address(stub):
    old = stub.seed("contacts", {"email": "ann@home.example"})
    sent = delivery(1, {"email": "Ann@Home.example"})
    async with opened(stub.url, match=ALL) as sink:
        assert await sink.send_batch([sent]) == [relay.Delivered(old)]
    assert calls(stub) == ["batch/read", "search", "batch/read", "batch/update"]
    assert keys(stub) == {old: key(1)}


async def test_those_that_a_read_does_not_name_are_not_there(stub):
    stub.names_missing = False
    stub.seed("contacts", {"sms_key": key(1)})
    old = stub.seed("contacts", {"phone": mobile(2)})
    async with opened(stub.url, match=ALL) as sink:
        outcomes = await sink.send_batch([delivery(1), delivery(2), delivery(3)])
    assert kinds(outcomes) == ["Delivered"] * 3
    assert outcomes[1].reference == old
    assert sorted(keys(stub).values()) == [key(1), key(2), key(3)]


@pytest.mark.parametrize("typed", ["no address", "a@b", "a b@c.example", "x@-.."])
async def test_what_is_no_address_keeps_nobody_from_being_looked_for(stub, typed):
    old = stub.seed("contacts", {"email": "ann@home.example"})
    sent = [delivery(1, {"email": "ann@home.example"}), delivery(2, {"email": typed})]
    async with opened(stub.url, match=["key", "email"]) as sink:
        outcomes = await sink.send_batch(sent)
    assert kinds(outcomes) == ["Delivered"] * 2
    assert outcomes[0].reference == old


async def test_a_read_by_address_that_is_refused_keeps_nobody_away(stub, caplog):
    stub.fault_answer(400, "VALIDATION_ERROR", "Invalid email a@b.example", on="batch/read")
    async with opened(stub.url, match=["key", "email"]) as sink:
        sink._people._by_key = lambda records: asyncio.sleep(0, records)
        outcomes = await sink.send_batch([delivery(1, {"email": "a@b.example"}), delivery(2)])
    assert kinds(outcomes) == ["Delivered"] * 2
    assert "not looked for by e-mail" in caplog.text
    assert "a@b.example" not in caplog.text


async def test_a_key_that_comes_into_the_world_meanwhile_is_used(stub):
    stub.seed("contacts", {"phone": mobile(1)})
    async with opened(stub.url, match=["key", "phone"]) as sink:
        search = sink._people._search

        async def search_slowly(records):
            stub.seed("contacts", {"sms_key": key(1)})
            return await search(records)

        sink._people._search = search_slowly
        assert await sink.send_batch([delivery(1)]) == [relay.Delivered("502")]
    assert len(stub.records("contacts")) == 2


async def test_what_a_person_found_has_already_is_left_alone(stub):
    stub.seed("contacts", {"phone": mobile(1), "lifecyclestage": "customer"})
    options = {"match": ["key", "phone"], "only_if_empty": ["lifecyclestage"]}
    async with opened(stub.url, **options) as sink:
        await sink.send_batch([delivery(1, {"lifecyclestage": "lead"})])
    (kept,) = stub.records("contacts")
    assert (kept["lifecyclestage"], kept["sms_key"]) == ("customer", key(1))


async def test_a_person_found_who_vanishes_is_made_anew(stub):
    stub.seed("contacts", {"phone": mobile(1)})
    stub.fault_row("OBJECT_NOT_FOUND")
    async with opened(stub.url, match=["key", "phone"]) as sink:
        assert kinds(await sink.send_batch([delivery(1)])) == ["Delivered"]
    assert calls(stub) == ["batch/read", "search", "batch/update", "batch/upsert"]


@pytest.mark.parametrize("path", ["batch/read", "search"])
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("drop", "Retry"),
        ("secondly", "Retry"),
        ("empty", "Retry"),
        ("401", "Pause"),
        ("non_unique", "Pause"),
    ],
)
async def test_who_cannot_be_looked_for_is_not_written(stub, path, fault, kind):
    stub.fault(fault, on=path)
    async with opened(stub.url, match=ALL) as sink:
        assert kinds(await sink.send_batch([delivery(1), delivery(2)])) == [kind] * 2
    assert not stub.records("contacts")


# their numbers


@pytest.mark.parametrize(
    ("options", "expected"), [({}, "+12125559999"), ({"overwrite_phones": True}, mobile(1))]
)
@pytest.mark.parametrize("member", ["{{ data.mobile | digits }}", "member-1"])
async def test_a_person_found_by_phone_keeps_the_mobile_number(stub, options, expected, member):
    """At the first event, at the next, and after a restart."""
    old = stub.seed("contacts", {"phone": spoken(1), "mobilephone": "+12125559999"})
    for _ in range(2):
        async with opened(stub.url, match=["key", "phone"], key=member, **options) as sink:
            for name in ("Ann", "Anna"):
                (outcome,) = await sink.send_batch([delivery(1, {"firstname": name})])
                assert outcome == relay.Delivered(old)
    (contact,) = stub.records("contacts")
    assert (contact["mobilephone"], contact["phone"]) == (expected, spoken(1))
    assert contact["firstname"] == "Anna"
    assert calls(stub).count("search") == 1
    assert len(stub.calls) == 7  # no more than with overwrite_phones


@pytest.mark.parametrize("match", [["key", "phone"], ALL])
async def test_a_number_that_the_person_does_not_have_is_written(stub, match):
    """That of a new contact, of one found by address, and the new one of a known member."""
    stub.seed("contacts", {"email": "ann@home.example"})
    stub.seed("contacts", {"sms_key": "member-3", "mobilephone": mobile(9)})
    sent = [
        delivery(2, {"email": "ann@home.example"} if match == ALL else {}, label="member-2"),
        delivery(3, label="member-3"),
        delivery(4, label="member-4"),
    ]
    async with opened(stub.url, match=match, key="{{ data.label }}") as sink:
        await sink.send_batch(sent)
        await sink.send_batch([delivery(5, label="member-4")])
    phones = {each.get("sms_key"): each.get("mobilephone") for each in stub.records("contacts")}
    expected = {"member-2": mobile(2), "member-3": mobile(3), "member-4": mobile(5)}
    assert expected.items() <= phones.items()


@pytest.mark.parametrize("when", ["found", "known"])
async def test_a_person_who_is_made_anew_has_the_number(stub, when):
    """Somebody deletes the contact: after it was found, or after an event was written to it."""
    old = stub.seed("contacts", {"phone": spoken(1)})
    async with opened(stub.url, match=["key", "phone"]) as sink:
        if when == "known":
            await sink.send_batch([delivery(1)])
            stub.delete("contacts", old)
        else:
            write = sink._writer.write

            async def vanish_and_write(records):
                stub.delete("contacts", old)
                await write(records)

            sink._writer.write = vanish_and_write
        (outcome,) = await sink.send_batch([delivery(1)])
    (contact,) = stub.records("contacts")
    assert outcome == relay.Delivered(contact["id"])
    assert contact["mobilephone"] == mobile(1)


async def test_a_number_in_another_property_than_the_contacts_own_is_written(stub):
    stub.seed("contacts", {"phone": mobile(1)})
    async with opened(stub.url, match=["key", "phone"], columns=("mobilephone",)) as sink:
        await sink.send_batch([delivery(1, {"mobilephone": mobile(7)})])
    assert stub.records("contacts")[0]["mobilephone"] == mobile(7)


@pytest.mark.parametrize(
    "odd", [{"id": None}, {"id": ""}, {"properties": None}, {"properties": ["sms_key"]}]
)
@pytest.mark.parametrize("path", ["batch/read", "search"])
async def test_a_contact_without_its_id_or_properties_is_nobody(path, odd):
    """Neither is the word of consent taken for written, nor a second contact made."""
    contact = {"id": "1", "properties": {"sms_key": key(1), "mobilephone": mobile(1)}} | odd
    asked = []

    def handle(request):
        asked.append(request.url.path.rsplit("contacts/", 1)[1])
        results = [contact] if asked[-1] == path else []
        return httpx.Response(200, json={"results": results, "errors": GONE, "total": 1})

    http = httpx.AsyncClient(transport=httpx.MockTransport(handle))
    given = options(match=["key", "phone"], consent={"field": "sms_opt_out"})
    sink = HubSpot("crm", given, http, LOG, tuple(MAP))
    word = dataclasses.replace(delivery(2), record=None, last_word="opt_out")
    for each in (word, delivery(1)):
        (outcome,) = await sink.send_batch([each])
        assert isinstance(outcome, relay.Retry)
        assert "without a word" in outcome.reason
    assert set(asked) <= {"batch/read", "search"}


GONE = [{"category": "OBJECT_NOT_FOUND", "status": "error", "message": "none", "context": {}}]
