"""Static lists of the hubspot sink: each contact is in those that its event chooses."""

import pytest
from hubspotsink import delivery, kinds, opened, options
from stubs.hubspot import HubSpotStub
from stubs.hubspot_lists import RecordList
from stubs.hubspot_schema import Field
from stubs.vendor import serving

import relay

COMMUNICATION = {"communication": {"body": "{{ data.message }}"}}
BY_KEYWORD = "{{ {'JOIN': '7', 'VIP': '8'}[data.keyword] }}"


@pytest.fixture
async def stub():
    stub = HubSpotStub()
    stub.lists = {"7": RecordList("Joined"), "8": RecordList("VIP", "SNAPSHOT")}
    stub.lists["9"] = RecordList("Active", "DYNAMIC")
    async with serving(stub.app) as stub.url:
        yield stub


def puts(stub):
    return [call.path for call in stub.calls if call.path.endswith("/memberships/add")]


def members(stub):
    return {name: sorted(each.members) for name, each in stub.lists.items() if each.members}


@pytest.mark.parametrize("version", ["v3", "2026-09"])
async def test_each_contact_is_in_the_list_of_its_keyword(stub, version):
    sent = [delivery(1), delivery(2, keyword="VIP"), delivery(3, keyword="OTHER"), delivery(4)]
    async with opened(stub.url, lists=[BY_KEYWORD], api_version=version) as sink:
        assert kinds(await sink.send_batch(sent)) == ["Delivered"] * 4
    assert members(stub) == {"7": ["501", "504"], "8": ["502"]}
    assert len(puts(stub)) == 2


async def test_a_contact_can_be_in_several_lists_and_an_id_can_be_a_number(stub):
    async with opened(stub.url, lists=[7, BY_KEYWORD, "{{ 8 if data.keyword == 'VIP' }}"]) as sink:
        outcomes = await sink.send_batch([delivery(1), delivery(2, keyword="VIP")])
    assert outcomes == [relay.Delivered("501"), relay.Delivered("502")]
    assert members(stub) == {"7": ["501", "502"], "8": ["502"]}


async def test_a_hundred_contacts_take_one_call_more_for_each_list(stub):
    sent = [delivery(number, keyword=["JOIN", "VIP"][number % 2]) for number in range(100)]
    async with opened(stub.url, lists=[BY_KEYWORD]) as sink:
        await sink.send_batch(sent)
    assert len(stub.calls) == 3
    assert sum(map(len, members(stub).values())) == 100


async def test_a_hundred_with_a_list_and_a_communication_take_four_calls(stub):
    stub.fields["communications"]["sms_event_id"] = Field(unique=True)
    async with opened(stub.url, lists=["7"], activity=COMMUNICATION) as sink:
        await sink.send_batch([delivery(number) for number in range(100)])
    assert len(stub.calls) == 4
    assert len(stub.associations) == len(stub.lists["7"].members) == 100


@pytest.mark.parametrize("fault", ["drop_after_commit", "503", "empty", "garbage", "throttle"])
async def test_what_keeps_a_list_from_answering_is_tried_again(stub, fault):
    """The activity waits for it, as it would be there twice."""
    sent = [delivery(1), delivery(2)]
    times = 2 if fault == "drop_after_commit" else 1  # a PUT is asked again by itself
    stub.fault(fault, count=times, on="/memberships/add")
    async with opened(stub.url, lists=["7", "8"], activity=COMMUNICATION) as sink:
        assert kinds(await sink.send_batch(sent)) == ["Retry"] * 2
        assert not stub.records("communications")
        assert kinds(await sink.send_batch(sent)) == ["Delivered"] * 2
    assert stub.fired[fault] == times
    assert members(stub) == {"7": ["501", "502"], "8": ["501", "502"]}
    assert len(stub.records("communications")) == 2


async def test_those_whose_lists_have_answered_are_not_tried_again(stub):
    sent = [delivery(1), delivery(2, keyword="VIP"), delivery(3)]
    stub.fault("503", on="/lists/2026-09/8/")
    async with opened(stub.url, lists=[BY_KEYWORD]) as sink:
        assert kinds(await sink.send_batch(sent)) == ["Delivered", "Retry", "Delivered"]
    assert members(stub) == {"7": ["501", "503"]}


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ '7' if data.keyword == 'JOIN' else '99' }}", "not in list 99: 404 OBJECT_NOT_FOUND"),
        ("{{ '7' if data.keyword == 'JOIN' else '9' }}", "not in list 9: 400 VALIDATION_ERROR"),
        ("{{ '7' if data.keyword == 'JOIN' else data.keyword }}", "lists: its value is not the id"),
        ("{{ '7' if data.keyword == 'JOIN' else 7 / 0 }}", "lists: "),
        ("{{ '7' if data.keyword == 'JOIN' else data.mobile | digits }}", "not in list …0002"),
    ],
)
async def test_a_list_that_takes_nobody_costs_the_membership_alone(stub, template, said):
    sent = [delivery(1), delivery(2, keyword="OTHER"), delivery(3)]
    async with opened(stub.url, lists=[template], activity=COMMUNICATION) as sink:
        first, second, third = await sink.send_batch(sent)
    assert (first, third) == (relay.Delivered("501"), relay.Delivered("503"))
    assert second.reference == "502"
    assert second.note.startswith(said)
    assert "2125550002" not in second.note
    assert members(stub) == {"7": ["501", "503"]}
    assert len(stub.records("communications")) == 3


async def test_ten_wrong_lists_in_a_row_pause_nothing(stub):
    sent = [delivery(number) for number in range(10)]
    async with opened(stub.url, lists=["99"]) as sink:
        outcomes = [(await sink.send_batch([each]))[0] for each in sent]
    assert kinds(outcomes) == ["Delivered"] * 10


@pytest.mark.parametrize("scope", ["crm.lists.read", "crm.lists.write"])
async def test_a_missing_scope_pauses_and_the_contact_is_there(stub, scope):
    stub.scopes = stub.scopes - {scope}
    async with opened(stub.url, lists=[BY_KEYWORD]) as sink:
        (outcome,) = await sink.send_batch([delivery(1)])
        assert isinstance(outcome, relay.Pause)
        assert scope in outcome.reason
        (problem,) = await sink.check()
        assert scope in problem
        assert not isinstance(problem, relay.Notice)
        stub.scopes = stub.scopes | {scope}
        assert await sink.check() == []
        assert kinds(await sink.send_batch([delivery(1)])) == ["Delivered"]
    assert members(stub) == {"7": ["501"]}
    assert len(stub.records("contacts")) == 1


async def test_a_contact_that_the_list_does_not_find_is_tried_once_more(stub):
    stub.lists["8"].kind = "notes"
    sent = delivery(1)
    again = relay.Delivery(sent.id, sent.event, sent.record, attempt=2)
    async with opened(stub.url, lists=["8"]) as sink:
        assert kinds(await sink.send_batch([sent])) == ["Retry"]
        (outcome,) = await sink.send_batch([again])
    assert outcome == relay.Delivered(
        "501", "not in list 8: HubSpot did not find the contact for it"
    )


async def test_a_test_event_and_one_that_is_stale_are_in_no_list(stub):
    activity = {"event": {"name": "pe123_sms", "map": {"message": "{{ data.message }}"}}}
    async with opened(stub.url, lists=["7"], activity=activity) as sink:
        await sink.send_batch([delivery(1, test=True)])
        assert members(stub) == {}
        await sink.send_batch([delivery(1, keyword="OTHER")])
        stub.lists["7"].members.clear()
        await sink.send_batch([delivery(1, stale=True)])
    assert members(stub) == {}


async def test_check_names_lists_that_take_no_contacts(stub):
    """None of it stops the contacts, so none of it keeps the sink paused."""
    stub.lists["8"].kind = "notes"
    chosen = "{{ {'JOIN': '98', 'VIP': '7'}.get(data.keyword, '97') }}"
    async with opened(stub.url, lists=["99", "9", "8", "7", chosen]) as sink:
        found = await sink.check()
    assert all(isinstance(each, relay.Notice) for each in found)
    assert sorted(found) == [
        "options.lists: HubSpot has no list 97",
        "options.lists: HubSpot has no list 98",
        "options.lists: HubSpot has no list 99",
        "options.lists: the list 8 (VIP) is not one of contacts",
        "options.lists: the list 9 (Active) is not static: HubSpot fills it by itself",
    ]
    assert members(stub) == {}


@pytest.mark.parametrize("wrong", ["Joined", "", True, None, "https://x.example/lists/7"])
def test_what_is_no_id_is_a_mistake(wrong):
    with pytest.raises(ValueError, match="should be"):
        options(lists=[wrong])
