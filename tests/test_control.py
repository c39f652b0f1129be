"""Control over a real store and a real configuration; no service, no network but a socket."""

import asyncio
import os
from datetime import datetime
from types import SimpleNamespace

import httpx
import pytest

from relay.api.app import make_app
from relay.cli import client, local
from relay.config import loader
from relay.delivery.gate import SinkStatus
from relay.delivery.manager import NoWorkers
from relay.event import InvalidCallback, RawCallback
from relay.server.http_server import make_server
from relay.server.sockets import listen_control
from relay.sources.router import Router
from relay.state_directory import StateDirectory
from relay.store import Settlement, State
from relay.store.sqlite import SqliteStore

YAML = """
sources:
  sumotext: {country: US}
sinks:
  archive: {plugin: csv, options: {path: events.csv}}
  crm:
    plugin: csv
    when: type == 'com.sumotext.web_form'
    map: {Mobile: "{{ data.mobile }}", Name: "{{ data.fields.Name }}"}
    options: {path: crm.csv}
  off: {plugin: csv, enabled: false, options: {path: off.csv}}
"""
WEB_FORM = b"mobile=2125551212&shortcode=84700&key=JOIN&carrierId=V&Name=Bill"
POLL = b"mobile=2125551213&shortcode=84700&key=FB1&reply=A&label=Tampa"
BROKEN = b"mobile=12&shortcode=84700&key=FB1&reply=A"


def callback(query, source="sumotext"):
    return RawCallback(source, "GET", query, "", b"", 1_800_000_000_000_000)


def load(folder, text=YAML):
    path = folder / "relay.yaml"
    path.write_text(text)
    return loader.load(path, {})


class Workers(NoWorkers):
    """Workers that remember who woke them."""

    def __init__(self, store):
        super().__init__(store)
        self.woken = []

    def wake(self, name):
        self.woken.append(name)


@pytest.fixture
async def relay(tmp_path, clock):
    """A store, and control over it, by the configuration above."""
    loaded = load(tmp_path)
    store = await SqliteStore.open(loaded.store, clock=clock)
    router = Router(loaded, store, clock)
    workers = Workers(store)

    def client_of(settings):
        app = make_app(Router(settings, store, clock), store, settings, workers)
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://relay")
        return client.ApiClient(local.sender(http), live=False)

    yield SimpleNamespace(
        store=store,
        router=router,
        workers=workers,
        ask=client_of(loaded),
        folder=tmp_path,
        ask_with=lambda text: client_of(load(tmp_path, text)),
    )
    await store.close()


async def receive(relay, *queries):
    return [
        (await relay.store.add(await relay.router.new_event(callback(query)))).id
        for query in queries
    ]


async def settle_all(relay, sink, state):
    while claims := (await relay.store.claim(sink, 100)).claims:
        await relay.store.settle(
            [Settlement(sink, each.seq, state, error="no such field") for each in claims]
        )


async def ids(relay, path, **query):
    return [each["id"] for each in (await relay.ask.get(path, **query))["items"]]


async def refused(question):
    with pytest.raises(client.click.ClickException) as error:
        await question
    return error.value.message


async def test_status_counts_events_quarantine_and_each_sink(relay):
    await receive(relay, WEB_FORM, POLL)
    await relay.store.quarantine(callback(BROKEN), 422, "no number")
    await settle_all(relay, "archive", State.DELIVERED)
    await settle_all(relay, "crm", State.DEAD)
    assert await relay.ask.get("/status") == {
        "events": 2,
        "quarantine": 1,
        "spill": 0,
        "spill_trouble": "",
        "refusal": "",
        "sinks": {
            "archive": {"state": "not running", "pending": 0, "delivered": 2, "dead": 0},
            "crm": {"state": "not running", "pending": 0, "delivered": 0, "dead": 1},
            "off": {"state": "disabled", "pending": 0, "delivered": 0, "dead": 0},
        },
        "configuration": {"state": "current", "problems": [], "warnings": []},
    }


async def test_a_pause_is_written_down_and_shown_until_it_is_resumed(relay):
    await relay.ask.post("/sinks/crm/pause", reason="the CRM moves house")
    crm = (await relay.ask.get("/status"))["sinks"]["crm"]
    assert (crm["state"], crm["reason"]) == ("paused", "the CRM moves house")
    assert (await relay.store.sink_states())["crm"].paused_by_operator
    await relay.ask.post("/sinks/crm/resume")
    assert (await relay.ask.get("/status"))["sinks"]["crm"]["state"] == "not running"


async def test_a_live_worker_knows_better_than_what_is_written_down(relay):
    relay.workers.states = lambda: {"crm": SinkStatus("parked", "503", until=10**15)}
    crm = (await relay.ask.get("/status"))["sinks"]["crm"]
    assert (crm["state"], crm["reason"]) == ("parked", "503")
    assert crm["until"] == "2001-09-09T01:46:40.000000Z"


async def test_a_disabled_sink_is_neither_paused_nor_resumed(relay):
    for verb in ("pause", "resume"):
        assert "disabled" in await refused(relay.ask.post(f"/sinks/off/{verb}"))


async def test_unknown_sinks_are_refused_with_the_known_names(relay):
    message = await refused(relay.ask.post("/sinks/cmr/pause"))
    assert message == "no sink cmr in relay.yaml (known: archive, crm, off)"


async def test_events_are_listed_newest_first_and_filtered(relay):
    first, second = await receive(relay, WEB_FORM, POLL)
    assert await ids(relay, "/events") == [second, first]
    assert await ids(relay, "/events", kind="poll") == [second]
    assert await ids(relay, "/events", keyword="join") == [first]
    assert await ids(relay, "/events", after=1) == [second]


async def test_an_event_is_shown_with_its_deliveries(relay):
    (event,) = await receive(relay, WEB_FORM)
    found = await relay.ask.get(f"/events/{event}")
    assert found["data"]["fields"] == {"Name": "Bill"}
    assert {each["sink"]: each["state"] for each in found["deliveries"]} == {
        "archive": "pending",
        "crm": "pending",
    }
    assert found["opted_out"] is False


@pytest.mark.parametrize("event", ["x", "01a206d6-43e0-7111-a98e-f631bc8b4efb"])
async def test_an_unknown_event_is_not_found(relay, event):
    assert await refused(relay.ask.get(f"/events/{event}")) == f"no event {event}"


async def test_a_dead_delivery_goes_again_with_fresh_attempts(relay):
    await receive(relay, WEB_FORM)
    await settle_all(relay, "crm", State.DEAD)
    (dead,) = (await relay.ask.get("/dead"))["items"]
    assert (dead["sink"], dead["error"]) == ("crm", "no such field")
    answer = await relay.ask.post("/dead/replay", sink="crm", seqs=[dead["seq"]])
    assert answer == {"made": 1, "skipped": 0, "errors": []}
    (claim,) = (await relay.store.claim("crm", 10)).claims
    assert (claim.attempt, claim.replayed) == (1, True)
    assert relay.workers.woken == ["crm"]


async def test_a_dead_delivery_that_when_no_longer_lets_through_stays_dead(relay):
    await receive(relay, WEB_FORM)
    await settle_all(relay, "crm", State.DEAD)
    ask = relay.ask_with(YAML.replace("web_form'", "poll'"))
    answer = await ask.post("/dead/replay", sink="crm", seqs=[1])
    assert answer == {"made": 0, "skipped": 1, "errors": []}
    assert len((await ask.get("/dead", sink="crm"))["items"]) == 1


async def test_dead_deliveries_are_discarded(relay):
    await receive(relay, WEB_FORM)
    await settle_all(relay, "crm", State.DEAD)
    assert await relay.ask.post("/dead/discard", sink="crm", seqs=[1]) == {"discarded": 1}
    assert await ids(relay, "/dead") == []


async def test_a_quarantined_callback_is_shown_with_its_parameters(relay):
    name = await relay.store.quarantine(callback(BROKEN), 422, "no number")
    found = await relay.ask.get(f"/quarantine/{name}")
    assert (found["status"], found["reason"]) == (422, "no number")
    assert found["callback"]["parameters"][3] == ["reply", "A"]
    assert await refused(relay.ask.get("/quarantine/none")) == ("no callback none in quarantine")


async def test_a_callback_is_released_when_todays_configuration_understands_it(relay):
    unnamed = WEB_FORM.replace(b"mobile", b"handset")
    with pytest.raises(InvalidCallback):
        await receive(relay, unnamed)
    name = await relay.store.quarantine(callback(unnamed), 422, "no number")
    answer = await relay.ask.post("/quarantine/release", ids=[name])
    assert answer["released"] == []
    assert answer["failed"][0]["id"] == name

    ask = relay.ask_with(YAML.replace("US}", "US, rename: {handset: mobile}}"))
    would = await ask.post("/quarantine/release", ids=[name], dry_run=True)
    assert would["released"][0]["sinks"][1]["record"] == {"Mobile": "+12125551212", "Name": "Bill"}
    assert (await ask.get("/status"))["events"] == 0

    answer = await ask.post("/quarantine/release", ids=[name, "none"])
    event = await ask.get(f"/events/{answer['released'][0]['event']}")
    assert event["data"]["mobile"] == "+12125551212"
    assert answer["failed"] == [{"id": "none", "reason": "no callback none in quarantine"}]
    assert await ids(relay, "/quarantine") == []


async def test_two_who_release_the_same_callbacks_do_not_hinder_each_other(relay):
    names = [await relay.store.quarantine(callback(POLL), 422, "no number") for _ in range(20)]
    asked = [relay.ask.post("/quarantine/release", ids=names) for _ in range(2)]
    answers = await asyncio.gather(*asked)
    released = [each["id"] for answer in answers for each in answer["released"]]
    assert sorted(released) == sorted(names)
    for answer in answers:
        assert len(answer["released"]) + len(answer["failed"]) == len(names)
    assert (await relay.ask.get("/status"))["events"] == len(names)


async def test_a_page_of_the_quarantine_ends_nowhere_early(relay):
    """The row that bounds it may be released, or driven out by a flood, before the next page."""
    names = [await relay.store.quarantine(callback(BROKEN), 422, "no") for _ in range(3)]
    page = await relay.ask.get("/quarantine", limit=1)
    assert [each["id"] for each in page["items"]] == [names[2]]
    await relay.ask.post("/quarantine/discard", ids=names[2:])
    assert await ids(relay, "/quarantine", cursor=page["next"]) == names[1::-1]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5])
async def test_the_pages_of_a_list_have_each_row_once(relay, limit):
    """The deliveries of one event to several sinks have one seq."""
    await receive(relay, WEB_FORM, POLL, WEB_FORM)
    for sink in ("crm", "archive"):
        await settle_all(relay, sink, State.DEAD)
    for _ in range(4):
        await relay.store.quarantine(callback(BROKEN), 422, "no")
    for name, expected in (("/events", 3), ("/dead", 5), ("/quarantine", 4)):
        rows = (await relay.ask.get(name))["items"]
        assert len(rows) == expected
        pages = [page async for page in relay.ask.pages(name, limit=limit)]
        assert [row for page in pages for row in page] == rows
        assert all(len(page) <= limit for page in pages)


@pytest.mark.parametrize("cursor", ["", "7", "%", "WzFd", "WyIxIiwiIl0", "e30", "bnVsbA"])
async def test_a_cursor_that_was_never_given_out_is_refused(relay, cursor):
    assert "cursor" in await refused(relay.ask.get("/dead", cursor=cursor))


async def test_quarantined_callbacks_are_discarded(relay):
    names = [await relay.store.quarantine(callback(BROKEN), 422, "no") for _ in range(3)]
    assert await relay.ask.post("/quarantine/discard", ids=names[:1]) == {"discarded": 1}
    assert await relay.ask.post("/quarantine/discard", ids=None) == {"discarded": 2}


async def test_a_replay_goes_in_chunks_through_todays_when(relay):
    await receive(relay, *[WEB_FORM, POLL] * 3)
    await settle_all(relay, "crm", State.DELIVERED)
    position, made, skipped = {}, 0, 0
    while position is not None:
        answer = await relay.ask.post("/replay", sink="crm", limit=2, **position)
        made, skipped = made + answer["made"], skipped + answer["skipped"]
        following = {"after": answer["next"], "through": answer["through"]}
        position = following if answer["next"] else None
    assert (made, skipped) == (3, 3)
    assert (await relay.ask.get("/status"))["sinks"]["crm"]["pending"] == 3


async def test_a_replay_reaches_a_sink_that_is_younger_than_the_events(relay):
    await receive(relay, WEB_FORM)
    ask = relay.ask_with(YAML + "  young: {plugin: csv, options: {path: young.csv}}\n")
    assert (await ask.post("/replay", sink="young"))["made"] == 1
    (claim,) = (await relay.store.claim("young", 10)).claims
    assert claim.replayed


OPTED_IN, OPTED_OUT = ("+12125551212", "opt_in"), ("+12125551212", "opt_out")
YOUNG = YAML + "  young: {plugin: csv, options: {path: young.csv}}\n"


def said(word, key="JOIN"):
    return b"mobile=2125551212&shortcode=84700&key=%s&msg=%s" % (key.encode(), word)


async def heard(relay, sink):
    """Deliver all that is due; gives the last word that the sink heard of each contact."""
    words = {}
    while claims := (await relay.store.claim(sink, 10)).claims:
        for each in claims:
            words[each.event.data["mobile"]] = each.event.data["consent"]
            await relay.store.settle([Settlement(sink, each.seq, State.DELIVERED)])
    return words


@pytest.mark.parametrize("as_new", [False, True])
@pytest.mark.parametrize("where", [{"keyword": "JOIN"}, {"limit": 1, "through": 1}])
async def test_a_replay_to_a_young_sink_brings_what_was_said_since(relay, where, as_new):
    """The opt-out is outside what is replayed, and is from before the sink."""
    await receive(relay, said(b"START"), said(b"STOP", key="OTHER"))
    ask = relay.ask_with(YOUNG)
    shown = await ask.post("/replay", sink="young", dry_run=True, **where)
    assert len(shown["records"]) == shown["made"] == 2
    assert (await ask.post("/replay", sink="young", as_new=as_new, **where))["made"] == 2
    assert dict([OPTED_OUT]) == await heard(relay, "young")


async def test_an_opt_in_is_brought_behind_an_older_opt_out_alone(relay):
    await receive(relay, said(b"STOP"), said(b"hello"), said(b"START", key="OTHER"))
    ask = relay.ask_with(YOUNG)
    assert (await ask.post("/replay", sink="young", after=1, through=2))["made"] == 1
    assert (await ask.post("/replay", sink="young", through=1))["made"] == 2
    assert dict([OPTED_IN]) == await heard(relay, "young")


async def test_a_word_that_the_sink_does_not_get_by_its_when_is_not_brought(relay):
    await receive(relay, said(b"START"), said(b"STOP", key="OTHER"))
    ask = relay.ask_with(
        YOUNG.replace("{plugin: csv", "{when: data.keyword == 'JOIN', plugin: csv")
    )
    assert (await ask.post("/replay", sink="young"))["made"] == 1


async def test_a_dead_opt_in_that_goes_again_is_followed_by_an_opt_out_from_before_the_sink(relay):
    """The sink was off when the contact said it."""
    await receive(relay, said(b"START"))
    (claim,) = (await relay.store.claim("archive", 10)).claims
    await relay.store.settle([Settlement("archive", claim.seq, State.DEAD)])
    stop = await relay.router.new_event(callback(said(b"STOP")))
    await relay.store.add(stop._replace(deliveries={"crm": None}))
    answer = await relay.ask.post("/dead/replay", sink="archive", seqs=[claim.seq])
    assert answer["made"] == 1
    assert dict([OPTED_OUT]) == await heard(relay, "archive")


async def test_a_dry_run_shows_records_and_changes_nothing(relay):
    await receive(relay, WEB_FORM, POLL)
    await settle_all(relay, "crm", State.DELIVERED)
    answer = await relay.ask.post("/replay", sink="crm", dry_run=True)
    assert [each["record"] for each in answer["records"]] == [
        {"Mobile": "+12125551212", "Name": "Bill"}
    ]
    assert (await relay.ask.get("/status"))["sinks"]["crm"]["pending"] == 0


async def test_a_replay_as_new_stores_copies_and_ends(relay):
    """The copies are events too: a replay that followed them would never end."""
    ids = await receive(relay, WEB_FORM, WEB_FORM)
    position, made = {}, 0
    for _ in range(4):
        answer = await relay.ask.post("/replay", sink="crm", as_new=True, limit=1, **position)
        made += answer["made"]
        if answer["next"] is None:
            break
        position = {"after": answer["next"], "through": answer["through"]}
    assert made == 2
    events = (await relay.ask.get("/events"))["items"]
    assert len({each["id"] for each in events}) == 4
    copy = await relay.ask.get(f"/events/{events[0]['id']}")
    assert copy["id"] not in ids
    assert [each["sink"] for each in copy["deliveries"]] == ["crm"]


async def test_copies_are_not_replayed_themselves(relay):
    """They were made for one sink; another would take each for an event that it lacks."""
    await receive(relay, WEB_FORM, WEB_FORM)
    for _ in range(2):
        assert (await relay.ask.post("/replay", sink="crm", as_new=True))["made"] == 2
    assert (await relay.ask.get("/status"))["events"] == 6
    ask = relay.ask_with(YAML + "  young: {plugin: csv, options: {path: young.csv}}\n")
    assert (await ask.post("/replay", sink="young"))["made"] == 2


async def test_a_replay_says_where_to_go_on(relay):
    await receive(relay, WEB_FORM, POLL)
    first = await relay.ask.post("/replay", sink="crm", as_new=True, limit=1)
    assert first["next"] == 1
    since = int(datetime.fromisoformat(first["behind"]).timestamp() * 1_000_000)
    (event,) = [each for each in (await relay.ask.get("/events"))["items"] if each["seq"] == 1]
    assert first["behind"] > event["time"]
    assert (await relay.ask.post("/replay", sink="crm", since=since))["first"] in (2, None)


async def test_a_replay_names_the_events_whose_when_fails(relay):
    (event,) = await receive(relay, WEB_FORM)
    ask = relay.ask_with(YAML.replace("type == 'com.sumotext.web_form'", "data.keyword > 1"))
    answer = await ask.post("/replay", sink="crm")
    assert (answer["made"], answer["errors"][0]["id"]) == (0, event)


async def test_a_disabled_sink_takes_no_replay(relay):
    assert "disabled" in await refused(relay.ask.post("/replay", sink="off"))


async def test_who_gets_what_a_sink_left_gets_what_was_said_since(relay):
    """The contact opted out when the old sink had gone, and the new one was not there yet."""
    await receive(relay, said(b"START"))
    stop = await relay.router.new_event(callback(said(b"STOP")))
    await relay.store.add(stop._replace(deliveries={"crm": None}))
    ask = relay.ask_with(YAML.replace("  archive:", "  sales:"))
    assert await ask.post("/sinks/archive/rename", to="sales") == {"renamed": 1}
    assert dict([OPTED_OUT]) == await heard(relay, "sales")


async def test_a_released_opt_in_is_followed_by_what_was_said_since(relay):
    """The sink was off when the contact opted out."""
    row = await relay.store.quarantine(callback(said(b"START")), 422, "no source")
    later = callback(said(b"STOP"))._replace(received=callback(b"").received + 1)
    stop = await relay.router.new_event(later)
    await relay.store.add(stop._replace(deliveries={"crm": None}))
    await relay.ask.post("/quarantine/release", ids=[row])
    assert dict([OPTED_OUT]) == await heard(relay, "archive")


async def test_what_a_sink_that_has_gone_left_is_renamed_or_discarded(relay):
    await receive(relay, WEB_FORM, WEB_FORM)
    assert "still in use" in await refused(relay.ask.post("/sinks/crm/rename", to="archive"))
    assert "still in use" in await refused(relay.ask.post("/sinks/crm/discard"))

    ask = relay.ask_with(YAML.replace("  crm:", "  sales:"))
    assert (await ask.get("/status"))["sinks"]["crm"]["state"] == "orphaned"
    assert "no sink old" in await refused(ask.post("/sinks/old/rename", to="sales"))
    assert await ask.post("/sinks/crm/rename", to="sales") == {"renamed": 2}
    sinks = (await ask.get("/status"))["sinks"]
    assert sinks["sales"]["pending"] == 2
    assert "crm" not in sinks

    gone = relay.ask_with(YAML.replace("  crm:", "  other:"))
    assert await gone.post("/sinks/sales/discard") == {"discarded": 2}
    assert "sales" not in (await gone.get("/status"))["sinks"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/replay", {"sink": "crm", "limit": 0}),
        ("/replay", {"sink": "crm", "sinse": 1}),
        ("/dead/replay", {"sink": "crm", "seqs": ["x"]}),
    ],
)
async def test_a_wrong_question_is_refused_and_named(relay, path, body):
    message = await refused(relay.ask.post(path, **body))
    assert message.split(":")[0] in {"limit", "sinse", "seqs.0"}


async def test_the_socket_is_the_owners_and_its_path_may_be_long(tmp_path, clock):
    folder = tmp_path / ("deep" * 30)
    folder.mkdir()
    loaded = load(folder)
    path = StateDirectory.around(loaded.store).control_socket
    async with client.session(loaded) as session:
        assert not session.live
    store = await SqliteStore.open(loaded.store, clock=clock)
    app = make_app(Router(loaded, store, clock), store, loaded, NoWorkers(store))
    for _ in range(2):  # the second time over what the first has left
        server = make_server(app, listen_control(StateDirectory.around(loaded.store)))
        await server.start()
        assert len(os.fsencode(path)) > 108
        assert path.stat().st_mode & 0o777 == 0o600
        async with client.session(loaded) as session:
            assert session.live
            assert (await session.get("/status"))["events"] == 0
        await server.drain()
    await store.close()
    assert not StateDirectory.around(loaded.store).is_served()
