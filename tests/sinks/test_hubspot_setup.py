"""What the hubspot sink finds wrong with an account, and what it makes there."""

import logging
import tracemalloc

import httpx
import pytest
from hubspotsink import MAP, HubSpot, delivery, key, kinds, mobile, module, opened, options
from stubs.hubspot import HubSpotStub
from stubs.hubspot_schema import Field
from stubs.vendor import serving

import relay

OBJECT = {
    "object": {
        "type": "2-123",
        "id_property": "event_id",
        "association": 17,
        "map": {"message": "{{ data.message }}"},
    }
}
EVENT = {"event": {"name": "pe123_sms", "map": {"message": "{{ data.message }}"}}}
LOG = {"communication": {"body": "{{ data.message }}", "id_property": "sms_event_id"}}


@pytest.fixture
async def stub():
    stub = HubSpotStub()
    async with serving(stub.app) as stub.url:
        yield stub


async def problems(stub, columns=tuple(MAP), **values):
    async with opened(stub.url, columns=columns, **values) as sink:
        return await sink.check()


# check


@pytest.mark.parametrize("version", ["v3", "2026-09"])
@pytest.mark.parametrize("activity", [None, OBJECT, EVENT])
async def test_nothing_is_found_where_all_is_well(stub, activity, version):
    values = {"activity": activity, "api_version": version, "match": ["key", "phone", "email"]}
    assert await problems(stub, **values) == []
    assert len(stub.calls) <= 7


async def test_every_problem_is_told_at_once_and_where_it_stands(stub):
    found = await problems(
        stub,
        columns=("frstname", "createdate", "city"),
        id_property="zip",
        only_if_empty=["stage"],
        defaults={"lifecyclestage": "fan", "nickname": "x"},
        activity={"object": OBJECT["object"] | {"id_property": "name", "association": 99}},
    )
    told = "\n".join(found)
    for words in (
        "options.id_property: the property zip of contacts is not unique",
        'map.frstname: contacts have no such property; did you mean "firstname"?',
        "map.createdate: HubSpot fills it by itself",
        "options.only_if_empty: stage: contacts have no such property",
        "options.defaults.nickname: contacts have no such property",
        "options.defaults.lifecyclestage: 'fan' is none of subscriber, lead",
        "options.activity.object.id_property: the property name of 2-123 is not unique",
        "options.activity.object.association: USER_DEFINED 99 does not tie 2-123 to contacts",
        "those that do: 17 (USER_DEFINED)",
    ):
        assert words in told
    assert len(found) == 8
    assert "relay setup crm" in told


async def test_a_missing_id_property_is_told(stub):
    (found,) = await problems(stub, id_property="relay_key")
    assert found == (
        "options.id_property: contacts have no property relay_key; relay setup crm makes it"
    )


async def test_an_id_property_that_hubspot_writes_in_its_own_way_is_told(stub):
    stub.fields["contacts"]["sms_phone"] = Field(field_type="phonenumber", unique=True)
    (found,) = await problems(stub, id_property="sms_phone")
    assert "plain text" in found


async def test_an_unknown_property_is_no_problem_where_it_is_dropped(stub):
    assert await problems(stub, columns=("nickname",), unknown_property="drop") == []


async def test_a_missing_map_is_told(stub):
    assert "map is missing" in (await problems(stub, columns=None))[0]


async def test_a_custom_event_that_is_not_there_is_told(stub):
    wrong = {"event": {"name": "pe123_other", "map": {"message": "x"}}}
    (found,) = await problems(stub, activity=wrong)
    assert "there is no custom event pe123_other" in found
    wrong = {"event": {"name": "pe123_sms", "map": {"mesage": "x"}}}
    (found,) = await problems(stub, activity=wrong)
    assert 'did you mean "message"?' in found


async def test_a_key_that_may_not_read_definitions_is_no_problem(stub):
    stub.scopes = stub.scopes - {"behavioral_events.event_definitions.read_write"}
    (told,) = await problems(stub, activity=EVENT)
    assert isinstance(told, relay.Notice)
    assert "behavioral_events.event_definitions.read_write" in told


async def test_a_refused_key_is_the_one_problem(stub):
    stub.revoke_all()
    (found,) = await problems(stub, activity=OBJECT)
    assert "put a working key" in found


async def test_no_answer_is_a_problem(stub):
    stub.fault("drop", count=2, on="/properties/")  # the first time is asked again by itself
    (found,) = await problems(stub)
    assert "without an answer" in found


# setup


@pytest.mark.parametrize("version", ["v3", "2026-09"])
async def test_what_is_missing_is_made_and_works(stub, version):
    del stub.fields["contacts"]["sms_key"], stub.fields["contacts"]["sms_opt_out"]
    values = {
        "columns": (*MAP, "sms_city"),
        "api_version": version,
        "only_if_empty": ["sms_first"],
        "activity": LOG,
        "consent": {"field": "sms_opt_out", "fields": {"sms_word": {"opted_out": "Stopped"}}},
    }
    async with opened(stub.url, **values) as sink:
        assert await sink.check()
        lines = await sink.setup()
        assert await sink.check() == []
        assert kinds(await sink.send_batch([delivery(1, {"sms_city": "Tampa"})])) == ["Delivered"]
        again = await sink.setup()
    assert lines == [
        "contacts: made the property sms_key (unique text)",
        "contacts: made the property sms_city (text)",
        "contacts: made the property sms_first (text)",
        "contacts: made the property sms_opt_out (checkbox)",
        "contacts: made the property sms_word (text)",
        "communications: made the property sms_event_id (unique text)",
    ]
    assert stub.fields["contacts"]["sms_key"].unique
    made = stub.fields["contacts"]["sms_opt_out"]
    assert (made.type, made.field_type) == ("bool", "booleancheckbox")
    assert again == ["contacts: every property is there", "communications: every property is there"]


def left_to_do(name, meant):
    told = f'left to do: contacts have no property {name}; did you mean "{meant}"?'
    return f"{told}; relay setup crm --create {name} makes it"


async def test_a_property_that_looks_misspelt_is_made_only_by_name(stub):
    del stub.fields["contacts"]["sms_opt_out"], stub.fields["contacts"]["sms_key"]
    stub.fields["contacts"]["sms_optout"] = Field("bool", "booleancheckbox")
    stub.fields["contacts"]["smskey"] = Field(unique=True)
    values = {"columns": ("frstname", "nickname"), "consent": {"field": "sms_opt_out"}}
    before = set(stub.fields["contacts"])
    async with opened(stub.url, **values) as sink:
        checked = await sink.check()
        lines = await sink.setup()
        made = set(stub.fields["contacts"]) - before
        again = await sink.setup(create=["frstname", "sms_opt_out", "sms_key", "color"])
        assert await sink.check() == []
    assert made == {"nickname"}
    assert lines == [
        "contacts: made the property nickname (text)",
        left_to_do("sms_key", "smskey"),
        left_to_do("frstname", "firstname"),
        left_to_do("sms_opt_out", "sms_optout"),
    ]
    assert all("--create" in line for line in checked if "nickname" not in line)
    assert again == [
        "contacts: made the property sms_key (unique text)",
        "contacts: made the property frstname (text)",
        "contacts: made the property sms_opt_out (checkbox)",
        "left to do: relay.yaml names no property color",
    ]


PLAIN_LOG = {"communication": {"body": "{{ data.message }}"}}


@pytest.mark.parametrize("unique", [None, False])
async def test_communications_that_may_be_doubled_are_noticed(stub, unique):
    """It is no problem, so a sink that is paused for another reason goes on."""
    if unique is not None:
        stub.fields["communications"]["sms_event_id"] = Field(unique=unique)
    (found,) = await problems(stub, activity=PLAIN_LOG)
    assert isinstance(found, relay.Notice)
    assert found.startswith("options.activity.communication.id_property: ")
    assert "relay setup" in found
    assert "may be there twice" in found


async def test_setup_makes_communications_unique(stub):
    async with opened(stub.url, activity=PLAIN_LOG) as sink:
        lines = await sink.setup()
        assert await sink.check() == []
    assert lines[1] == "communications: made the property sms_event_id (unique text)"
    assert stub.fields["communications"]["sms_event_id"].unique


async def test_an_account_that_makes_no_unique_communications_is_set_up_all_the_same(stub):
    where = "/properties/2026-09/communications"
    stub.fault_answer(400, "VALIDATION_ERROR", "not for this type", on=f"POST /crm{where}")
    async with opened(stub.url, activity=PLAIN_LOG) as sink:
        lines = await sink.setup()
    assert lines[0] == "contacts: every property is there"
    assert lines[1].startswith("left to do: options.activity.communication.id_property: 400")
    assert "not for this type" in lines[1]


@pytest.mark.parametrize("fault", ["403", "404", "503"])
async def test_a_log_that_cannot_be_looked_at_is_no_problem(stub, fault):
    stub.fault(fault, on="/properties/2026-09/communications")
    (found,) = await problems(stub, activity=PLAIN_LOG)
    assert isinstance(found, relay.Notice)


async def test_a_wrong_default_of_communications_is_told(stub):
    wrong = {"defaults": {"hs_communication_channel_type": "FAX"}}
    stub.fields["communications"]["sms_event_id"] = Field(unique=True)
    (found,) = await problems(stub, activity=LOG | wrong)
    assert found.startswith("options.activity.defaults.hs_communication_channel_type: 'FAX'")


@pytest.mark.parametrize("fault", ["object_not_found", "path_not_found", "403", "503"])
async def test_check_and_setup_agree_on_a_custom_event_that_is_not_there(stub, fault):
    stub.fault(fault, count=2, on="/event-definitions/")
    async with opened(stub.url, activity=EVENT) as sink:
        checked, lines = await sink.check(), await sink.setup()
    assert stub.fired[fault] == 2
    missing = fault == "object_not_found"
    assert any("there is no custom event" in line for line in checked) == missing
    assert any("there is no custom event" in line for line in lines) == missing


async def test_what_setup_cannot_do_is_left_to_do(stub):
    wrong = {"event": {"name": "pe123_other", "map": {"message": "x"}}}
    async with opened(stub.url, id_property="zip", activity=wrong) as sink:
        lines = await sink.setup()
    assert [line.partition(":")[0] for line in lines] == ["left to do"] * 2
    assert "not unique" in lines[0]
    assert "pe123_other" in lines[1]


async def test_a_property_made_by_somebody_else_meanwhile_does_no_harm(stub):
    del stub.fields["contacts"]["sms_key"]
    stub.fault("exists_after_commit", count=2, on="POST /crm/properties/2026-09/contacts")
    async with opened(stub.url) as sink:
        assert "made the property sms_key" in (await sink.setup())[0]


async def test_a_key_without_the_scope_is_told(stub):
    del stub.fields["contacts"]["sms_key"]
    stub.scopes = stub.scopes - {"crm.schemas.contacts.write"}
    async with opened(stub.url) as sink:
        with pytest.raises(relay.Pause, match=r"crm\.schemas\.contacts\.write"):
            await sink.setup()


# backfill


def people(stub, count):
    for number in range(count):
        stub.seed("contacts", {"phone" if number % 2 else "mobilephone": mobile(number)})


async def filled(stub, progress=lambda _done, _total: None, **values):
    async with opened(stub.url, **values) as sink:
        return await sink.setup(backfill=True, progress=progress)


async def test_people_without_a_key_are_given_theirs(stub):
    people(stub, 250)
    stub.seed("contacts", {"sms_key": "77", "phone": mobile(300)})
    stub.seed("contacts", {"firstname": "nobody"})
    seen = []
    lines = await filled(stub, lambda done, total: seen.append((done, total)))
    assert lines[1:] == ["keys: 250 people were given theirs, 1 had one"]
    keys = [each.get("sms_key") for each in stub.records("contacts")]
    assert keys == [*(key(number) for number in range(250)), "77", None]
    assert seen == [(100, None), (200, None), (252, None), (100, 250), (200, 250), (250, 250)]


class Account:
    """The session and the writer of a backfill: an account of so many people without a key."""

    paths = module("client").Paths("2026-09")

    def __init__(self, people):
        self.people = people
        self.given = 0

    async def get(self, _path, *, limit, after="0", **_asked):
        start, end = int(after), int(after) + limit
        people = [
            {"id": f"{900_000_000 + each}", "properties": {"mobilephone": f"(212) 55{each:05}"}}
            for each in range(start, min(end, self.people))
        ]
        paging = {"paging": {"next": {"after": str(end)}}} if end < self.people else {}
        return module("client").ApiResponse({"results": people} | paging)

    async def write(self, records):
        for record in records:
            self.given += record.outcome is None
            record.outcome = relay.Delivered(record.target)


async def test_a_backfill_keeps_little_of_each_person():
    """Bytes at the most, for each person: 150,000 are to fit into a small machine."""
    account = Account(people=5000)

    async def fill():
        made = module("backfill").Backfill(account, account, options())
        await made.run(relay.sink.in_silence)

    await fill()  # what is loaded or kept for all numbers is there from now on
    tracemalloc.start()
    try:
        await fill()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert account.given == 10_000
    assert peak / 5000 <= 400


async def test_a_second_backfill_changes_nothing(stub):
    people(stub, 10)
    await filled(stub)
    assert (await filled(stub))[1:] == ["keys: 0 people were given theirs, 10 had one"]


async def test_a_number_of_several_people_is_given_to_none(stub):
    people(stub, 3)
    stub.seed("contacts", {"phone": "(212) 555-0001"})
    stub.seed("contacts", {"phone": mobile(9)})
    stub.seed("contacts", {"sms_key": key(9)})
    stub.seed("contacts", {"phone": "call me"})
    told = "\n".join(await filled(stub))
    assert "2 people were given theirs" in told
    assert "1 numbers stand with several people" in told
    assert "502, 504" in told
    assert "the keys of 1 people are other people's" in told
    assert "1 people have no number that can be read" in told
    assert mobile(1) not in told


async def test_keys_that_are_not_made_of_the_number_are_given_to_nobody(stub):
    people(stub, 3)
    for template in ("{{ id }}", "{{ data.message_id }}", "{{ data.fields.x }}"):
        assert "not made of the mobile number alone" in (await filled(stub, key=template))[-1]
    assert not any("sms_key" in each for each in stub.records("contacts"))


async def test_a_broken_connection_does_not_end_it_and_a_person_who_vanishes_is_not_made(stub):
    people(stub, 5)
    stub.fault_row("OBJECT_NOT_FOUND", id="503")
    stub.fault_row("LOCKED", id="504")
    stub.fault("503", on="batch/update")
    stub.fault("throttle", on="GET")
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    async with opened(stub.url) as sink:
        sink._client._quota = module("client").Quota()
        sink._client._throttled = lambda _problem: None
        fill = module("backfill").Backfill(sink._client, sink._writer, sink.options, sleep)
        lines = await fill.run(lambda _done, _total: None)
    assert lines[0] == "keys: 4 people were given theirs, 0 had one"
    assert "OBJECT_NOT_FOUND" in lines[1]
    assert len(stub.records("contacts")) == 5
    assert len(slept) == 3


async def test_people_who_are_given_keys_are_found_by_their_events(stub):
    people(stub, 3)
    await filled(stub)
    async with opened(stub.url) as sink:
        await sink.send_batch([delivery(number) for number in range(3)])
    assert len(stub.records("contacts")) == 3


# answers that HubSpot should not give


def answering(listed, **values):
    """A sink whose account gives this answer to each GET."""

    def handle(request):
        return httpx.Response(200, json=listed if request.method == "GET" else {})

    http = httpx.AsyncClient(transport=httpx.MockTransport(handle))
    return HubSpot("crm", options(**values), http, logging.getLogger("relay.sinks.crm"), ("city",))


@pytest.mark.parametrize("odd", [{}, {"results": 7}, {"results": []}, {"results": ["city"]}])
async def test_a_list_of_properties_of_another_form_is_what_check_says(odd):
    """It is not said that every property is missing, and setup makes none."""
    sink = answering(odd)
    (told,) = await sink.check()
    assert told.endswith("/contacts: answered without properties")
    with pytest.raises(relay.Retry, match="answered without"):
        await sink.setup()


async def test_what_describes_a_property_oddly_is_left_out():
    described = {"name": "city", "type": "enumeration", "options": 7, "typeId": [1]}
    key_property = {"name": "sms_key", "type": "string", "hasUniqueValue": True}
    sink = answering({"results": [described, key_property]}, activity=OBJECT)
    sink.constants = {"city": "Tampa"}
    assert any("does not tie" in line for line in await sink.check())


@pytest.mark.parametrize(
    "odd", [{}, {"results": 7}, {"results": [{"properties": {"phone": mobile(1)}}]}]
)
async def test_a_page_of_another_form_ends_the_backfill_with_a_reason(odd):
    sink = answering(odd)
    fill = module("backfill").Backfill(sink._client, sink._writer, sink.options)
    with pytest.raises(relay.Retry, match="answered without records"):
        await fill.run(lambda _done, _total: None)
