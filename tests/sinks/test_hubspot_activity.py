"""What the hubspot sink writes on the timelines: one activity an event, however often sent."""

import pytest
from hubspotsink import delivery, key, kinds, module, opened
from stubs.hubspot import HubSpotStub
from stubs.hubspot_schema import Field
from stubs.vendor import serving

import relay

MESSAGE = {"message": "{{ data.message }}"}
EVENT = {"event": {"name": "pe123_sms", "map": MESSAGE}}
OBJECT = {"object": {"type": "2-123", "id_property": "event_id", "association": 17, "map": MESSAGE}}
LOG = {"communication": {"body": "{{ data.keyword }}: {{ data.message }}"}}
KNOWN_LOG = {"communication": {"body": "{{ data.message }}", "id_property": "sms_event_id"}}
ALL = {"event": EVENT, "object": OBJECT, "log": LOG, "known log": KNOWN_LOG}
# Those that are written once, whatever happens.
ONCE = {name: ALL[name] for name in ("event", "object", "log", "known log")}
TIMELINES = {"event": "events", "object": "2-123", "log": "communications"}


@pytest.fixture
async def stub():
    stub = HubSpotStub()
    stub.fields["communications"]["sms_event_id"] = Field(unique=True)
    async with serving(stub.app) as stub.url:
        yield stub


def calls(stub):
    return [call.path for call in stub.calls]


def timeline(stub, name):
    """What stands on the timelines: of each the contact's id and the text."""
    if name == "event":
        return sorted((each["objectId"], each["properties"]["message"]) for each in stub.events)
    shelf = TIMELINES.get(name, "communications")
    texts = {
        each["id"]: each.get("message") or each.get("hs_communication_body")
        for each in stub.records(shelf)
    }
    tied = [(each["to"], texts.pop(each["from"])) for each in stub.associations]
    assert not texts, "what is tied to nobody"
    return sorted(tied)


def batch(*numbers, **options):
    return [delivery(number, message=f"text {number}", **options) for number in numbers]


@pytest.mark.parametrize("version", ["v3", "2026-09"])
@pytest.mark.parametrize("name", ALL)
async def test_each_event_stands_on_its_contacts_timeline(stub, name, version):
    async with opened(stub.url, activity=ALL[name], api_version=version) as sink:
        outcomes = await sink.send_batch(batch(1, 2, 3))
    assert outcomes == [relay.Delivered(each) for each in ("501", "502", "503")]
    prefix = "JOIN: " if name == "log" else ""
    assert timeline(stub, name) == [(f"50{n}", f"{prefix}text {n}") for n in (1, 2, 3)]
    assert all(version in path or "v4" in path for path in calls(stub))


@pytest.mark.parametrize(
    ("name", "most"), [("event", 2), ("object", 3), ("log", 3), ("known log", 3)]
)
async def test_a_hundred_cost_few_calls(stub, name, most):
    async with opened(stub.url, activity=ALL[name]) as sink:
        await sink.send_batch(batch(*range(100)))
    assert len(stub.calls) == most
    assert len(timeline(stub, name)) == 100


@pytest.mark.parametrize("name", ONCE)
async def test_a_replay_leaves_not_one_record_more(stub, name):
    sent = batch(*range(20))
    async with opened(stub.url, activity=ONCE[name]) as sink:
        for _ in range(3):
            assert set(kinds(await sink.send_batch(sent))) == {"Delivered"}
    assert len(timeline(stub, name)) == 20
    assert len(stub.records("contacts")) == 20


@pytest.mark.parametrize("name", ONCE)
@pytest.mark.parametrize("at", [1, 2, 3])
async def test_a_connection_that_breaks_after_the_write_makes_no_second_record(stub, name, at):
    sent = batch(1, 2)
    where = {1: "contacts/batch/upsert", 2: "send/batch" if name == "event" else "batch/upsert"}
    stub.fault("drop_after_commit", on=where.get(at, "associations"))
    async with opened(stub.url, activity=ONCE[name]) as sink:
        first = await sink.send_batch(sent)
        second = await sink.send_batch(sent)
    if stub.fired["drop_after_commit"]:
        assert kinds(first) == ["Retry"] * 2
    assert kinds(second) == ["Delivered"] * 2
    assert len(timeline(stub, name)) == 2
    assert len(stub.records("contacts")) == 2


# communications: once where HubSpot has a property for it


def make_unique(stub, *, unique=True):
    stub.fields["communications"]["sms_event_id"] = Field(unique=unique)


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_lost_answer_doubles_a_communication_only_without_the_property(stub, is_there):
    """The control is an account that does not have it."""
    if not is_there:
        del stub.fields["communications"]["sms_event_id"]
    sent = batch(1)
    action = "upsert" if is_there else "create"
    stub.fault("drop_after_commit", on=f"communications/batch/{action}")
    async with opened(stub.url, activity=LOG) as sink:
        assert kinds(await sink.send_batch(sent)) == ["Retry"]
        assert kinds(await sink.send_batch(sent)) == ["Delivered"]
    assert stub.fired["drop_after_commit"] == 1
    assert len(timeline(stub, "log")) == (1 if is_there else 2)


@pytest.mark.parametrize("version", ["v3", "2026-09"])
@pytest.mark.parametrize("unique", [None, False])
async def test_without_the_property_communications_are_written_as_ever(
    stub, version, unique, caplog
):
    """Each is refused once, and then the property is not asked for again within the hour."""
    del stub.fields["communications"]["sms_event_id"]
    if unique is not None:
        make_unique(stub, unique=unique)
    async with opened(stub.url, activity=LOG, api_version=version) as sink:
        outcomes = await sink.send_batch(batch(1, 2))
        assert outcomes == [relay.Delivered("501"), relay.Delivered("502")]
        assert len(stub.calls) == 4
        await sink.send_batch(batch(3))
    assert len(stub.calls) == 6
    assert [text for _, text in timeline(stub, "log")] == [f"JOIN: text {n}" for n in (1, 2, 3)]
    assert sum("relay setup makes it" in each for each in caplog.messages) == 1


async def test_a_property_that_is_made_meanwhile_is_used_within_the_hour(stub):
    del stub.fields["communications"]["sms_event_id"]
    now = [0.0]
    async with opened(stub.url, activity=LOG) as sink:
        sink._activity._monotonic = lambda: now[0]
        await sink.send_batch(batch(1))
        assert "made the property sms_event_id (unique text)" in "\n".join(await sink.setup())
        now[0] = 3601.0
        for _ in range(2):
            await sink.send_batch([delivery(2, event_id="event-2")])
    keys = [each.get("sms_event_id") for each in stub.records("communications")]
    assert keys == [None, "event-2"]


async def test_a_property_that_goes_stops_nothing(stub):
    async with opened(stub.url, activity=LOG) as sink:
        await sink.send_batch(batch(1))
        del stub.fields["communications"]["sms_event_id"]
        assert kinds(await sink.send_batch(batch(2))) == ["Delivered"]
    assert len(timeline(stub, "log")) == 2


async def test_a_property_that_relay_yaml_names_has_to_be_there(stub):
    del stub.fields["communications"]["sms_event_id"]
    async with opened(stub.url, activity=KNOWN_LOG) as sink:
        assert kinds(await sink.send_batch(batch(1))) == ["Pause"]
        assert "no property sms_event_id" in (await sink.check())[0]
    assert not stub.records("communications")


async def test_without_an_id_property_none_is_looked_for(stub):
    log = {"communication": LOG["communication"] | {"id_property": None}}
    async with opened(stub.url, activity=log) as sink:
        await sink.send_batch(batch(1))
        assert await sink.check() == []
    assert "communications/batch/upsert" not in "".join(calls(stub))


async def test_bad_communications_are_refused_for_what_they_are(stub):
    """Nothing is asked where some are taken; where all are refused it is asked once."""
    sent = batch(1, 2)
    stub.fault_row("INVALID_DATE", id="JOIN: text 1", count=20)
    async with opened(stub.url, activity=LOG | {"on_invalid": "dead"}) as sink:
        assert kinds(await sink.send_batch(sent)) == ["Reject", "Delivered"]
        assert kinds(await sink.send_batch(sent[:1])) == ["Reject"]
    assert len(timeline(stub, "log")) == 1


@pytest.mark.parametrize("name", ALL)
async def test_where_the_contact_is_refused_no_activity_is_written(stub, name):
    sent = [delivery(1), delivery(2, {"email": "no address"})]
    async with opened(stub.url, activity=ALL[name], on_invalid="dead") as sink:
        assert kinds(await sink.send_batch(sent)) == ["Delivered", "Reject"]
    assert [contact for contact, _ in timeline(stub, name)] == ["501"]


@pytest.mark.parametrize("name", ALL)
async def test_what_is_stale_changes_no_contact_but_is_on_its_timeline(stub, name):
    async with opened(stub.url, activity=ALL[name]) as sink:
        await sink.send_batch(batch(1))
        (outcome,) = await sink.send_batch(
            [delivery(1, {"firstname": "Old"}, stale=True, message="text 0")]
        )
    assert outcome == relay.Delivered("501")
    assert [text.rpartition(": ")[2] for _, text in timeline(stub, name)] == ["text 0", "text 1"]
    assert stub.records("contacts")[0]["firstname"] == "Ann 1"


@pytest.mark.parametrize("name", ALL)
async def test_what_is_stale_of_one_contact_goes_together(stub, name):
    """So where a sink keeps no order, or where two numbers share a key."""
    async with opened(stub.url, activity=ALL[name]) as sink:
        await sink.send_batch(batch(1, 2))
        told = await sink.send_batch(batch(1, 1, 2, stale=True))
    assert told == [relay.Delivered(each) for each in ("501", "501", "502")]
    assert [contact for contact, _ in timeline(stub, name)] == ["501"] * 3 + ["502"] * 2


@pytest.mark.parametrize("stale", [False, True])
async def test_keys_that_differ_by_case_alone_are_of_two_contacts(stub, stale):
    stub.echo_traces = False
    named = [{"Name": "Ann"}, {"Name": "ann"}]
    ids = [stub.seed("contacts", {"sms_key": fields["Name"]}) for fields in named]
    sent = [delivery(1, fields=each, message=each["Name"], stale=stale) for each in named]
    async with opened(stub.url, activity=EVENT, key="{{ data.fields.Name }}") as sink:
        told = await sink.send_batch(sent)
    assert told == [relay.Delivered(each) for each in ids]
    assert timeline(stub, "event") == [(ids[0], "Ann"), (ids[1], "ann")]


async def test_what_is_stale_and_without_a_contact_is_told(stub):
    async with opened(stub.url, activity=EVENT) as sink:
        (outcome,) = await sink.send_batch([delivery(1, stale=True)])
    assert isinstance(outcome, relay.Reject)
    assert "no longer in HubSpot" in outcome.reason
    assert not stub.records("contacts")


@pytest.mark.parametrize(("fault", "kind"), [("503", "Retry"), ("scopes", "Pause")])
@pytest.mark.parametrize("name", ALL)
async def test_what_befalls_the_activity_is_what_befalls_the_delivery(stub, name, fault, kind):
    where = (
        "/send/batch" if name == "event" else "2-123/" if name == "object" else "communications/"
    )
    stub.fault(fault, on=where)
    async with opened(stub.url, activity=ALL[name]) as sink:
        assert kinds(await sink.send_batch(batch(1, 2))) == [kind] * 2
    assert len(stub.records("contacts")) == 2


async def test_results_without_traces_are_counted_where_nothing_tells_them_apart(stub):
    stub.echo_traces = False
    async with opened(stub.url, activity=LOG) as sink:
        assert kinds(await sink.send_batch(batch(1, 2))) == ["Delivered"] * 2
    assert len(timeline(stub, "log")) == 2


@pytest.mark.parametrize("name", ["object", "log", "known log"])
@pytest.mark.parametrize("multi_status", [True, False])
async def test_one_bad_activity_harms_no_other(stub, name, multi_status):
    stub.multi_status = multi_status
    sent = batch(*range(10))
    stub.fault_row("INVALID_DATE", id="JOIN: text 3" if name == "log" else "text 3", count=20)
    async with opened(stub.url, activity=ALL[name] | {"on_invalid": "dead"}) as sink:
        outcomes = await sink.send_batch(sent)
    assert len(timeline(stub, name)) == 9
    assert kinds(outcomes) == ["Delivered"] * 3 + ["Reject"] + ["Delivered"] * 6


async def test_a_bad_custom_event_harms_no_other(stub):
    activity = EVENT | {"on_invalid": "dead"}
    sent = batch(*range(10))
    sent[3] = delivery(3, message="x" * 257)
    async with opened(stub.url, activity=activity) as sink:
        outcomes = await sink.send_batch(sent)
    assert kinds(outcomes) == ["Delivered"] * 3 + ["Reject"] + ["Delivered"] * 6
    assert "256" in outcomes[3].reason
    assert len(timeline(stub, "event")) == 9


@pytest.mark.parametrize(("on_invalid", "kept"), [("truncate", "x" * 256), ("drop", None)])
async def test_a_long_text_in_a_custom_event_is_cut_or_left_out(stub, on_invalid, kept):
    async with opened(stub.url, activity=EVENT | {"on_invalid": on_invalid}) as sink:
        (outcome,) = await sink.send_batch([delivery(1, message="x" * 257)])
    what = "without message: more than" if kept is None else "message cut to"
    assert outcome == relay.Delivered("501", f"activity {what} 256 characters")
    assert stub.events[0]["properties"].get("message") == kept


@pytest.mark.parametrize("name", ["object", "log"])
async def test_a_bad_value_costs_the_value_of_an_activity(stub, name):
    no_date = "{{ data.message | date('%d.%m.%Y', '%Y-%m-%d') }}"
    wrong = {"occurred_at": "{{ data.message }}", "event_type": no_date}
    activity = {
        "object": {"object": OBJECT["object"] | {"map": MESSAGE | wrong}},
        "log": LOG,
    }[name]
    stub.fields["communications"]["hs_communication_body"].length = 5
    async with opened(stub.url, activity=activity) as sink:
        (outcome,) = await sink.send_batch(batch(1))
    assert outcome.note.startswith("activity without ")
    assert "INVALID" in outcome.note
    assert len(stub.associations) == 1


async def test_a_custom_event_that_is_not_defined_is_told(stub):
    activity = {"event": {"name": "pe123_typo", "map": MESSAGE}}
    async with opened(stub.url, activity=activity) as sink:
        outcomes = await sink.send_batch(batch(*range(100)))
    assert kinds(outcomes) == ["Reject"] * 5 + ["Pause"] * 95
    assert "pe123_typo" in outcomes[0].reason
    assert len(stub.calls) <= 20


async def test_a_custom_event_says_what_happened_when(stub):
    sent = delivery(1, time="2026-11-23T04:34:00.123456Z")
    async with opened(stub.url, activity=EVENT) as sink:
        await sink.send_batch([sent])
    (event,) = stub.events
    assert (event["uuid"], event["occurredAt"]) == (sent.id, "2026-11-23T04:34:00.123Z")


async def test_a_wrong_association_pauses_and_is_named(stub):
    wrong = {"object": OBJECT["object"] | {"association": 99}}
    async with opened(stub.url, activity=wrong) as sink:
        outcomes = await sink.send_batch(batch(1, 2))
    assert kinds(outcomes) == ["Pause"] * 2
    assert "association" in outcomes[0].reason


async def test_a_wrong_association_is_found_out_in_a_few_calls(stub):
    wrong = {"object": OBJECT["object"] | {"association": 99}}
    async with opened(stub.url, activity=wrong) as sink:
        assert set(kinds(await sink.send_batch(batch(*range(100))))) == {"Pause"}
    assert len(stub.calls) <= 10


async def test_one_contact_that_is_gone_meanwhile_is_tried_again(stub):
    async with opened(stub.url, activity=OBJECT) as sink:
        records = sink._activity
        write = records._writer.write

        async def write_and_lose_one(made):
            await write(made)
            stub.shelves["contacts"].records.pop("502")

        records._writer.write = write_and_lose_one
        outcomes = await sink.send_batch(batch(1, 2, 3))
    assert kinds(outcomes) == ["Delivered", "Retry", "Delivered"]


@pytest.mark.parametrize(
    ("name", "where"),
    [("object", "associations"), ("object", "2-123/"), ("event", "/send/"), ("log", "/create")],
)
async def test_an_activity_that_nothing_is_said_of_is_tried_again(stub, name, where):
    stub.fault("empty", on=where)
    async with opened(stub.url, activity=ALL[name]) as sink:
        assert kinds(await sink.send_batch(batch(1))) == ["Retry"]


async def test_a_template_that_fails_is_told(stub):
    activity = {"communication": {"body": "{{ data.message | date('%Y', '%d') }}"}}
    async with opened(stub.url, activity=activity) as sink:
        (outcome,) = await sink.send_batch(batch(1))
    assert isinstance(outcome, relay.Reject)
    assert outcome.reason.startswith("activity: ")


async def test_a_second_event_of_one_key_has_an_activity_of_its_own(stub):
    async with opened(stub.url, key="{{ data.keyword }}", activity=OBJECT) as sink:
        await sink.send_batch(batch(1, 2))
    assert timeline(stub, "object") == [("501", "text 1"), ("501", "text 2")]
    assert stub.records("contacts")[0]["sms_key"] == "JOIN"
    assert key(1) not in str(stub.records("contacts")[0]["sms_key"])


@pytest.mark.parametrize("activity", [{}, EVENT | LOG])
def test_one_kind_of_activity_is_named(activity):
    from hubspotsink import options

    with pytest.raises(ValueError, match="one of event, object and communication"):
        options(activity=activity)


@pytest.mark.parametrize(
    ("version", "head"),
    [
        ("v3", "/events/v3"),
        ("2025-09", "/events/custom/2025-09"),
        ("2026-03", "/events/2026-03"),
        ("2026-09", "/events/2026-09"),
    ],
)
def test_custom_events_are_where_the_specification_of_each_version_has_them(version, head):
    paths = module("client").Paths(version)
    assert paths.events() == f"{head}/send/batch"
    assert paths.definition("pe1_sms") == f"{head}/event-definitions/pe1_sms"
