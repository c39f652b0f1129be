"""When an alert is news, and what it says: the clock is passed in, nothing waits."""

import asyncio
import itertools
import json
import math
import random
import threading

import orjson
import pytest
from arrivals import arrival
from watching import NOW, ago, readings

from relay.alerts import notifiers as words
from relay.alerts.monitor import AlertMonitor, StateFile
from relay.alerts.policy import (
    MAX_DOUBLINGS,
    MIN_GAP,
    RESOLVE_AFTER,
    AlertCondition,
    ChannelState,
    Notification,
)
from relay.alerts.rules import KeywordActivity, Snapshot, conditions
from relay.config.model import AlertRules, Alerts
from relay.delivery.gate import SinkStatus
from relay.store import BacklogAge, SinkCounts
from relay.store.sqlite import SqliteStore

REPEAT = 4 * 3600.0
PAUSED = AlertCondition("sink_paused", "crm", "The sink crm is paused: 401", hold=300)
SPILL = AlertCondition("spill", "", "Callbacks go to the spill file.")
OLD = AlertCondition("backlog_age", "crm", "Deliveries wait.", since=NOW - 3700)


class Channel:
    """Takes every notification; keeps what was in it, in short."""

    def __init__(self, state=None):
        self.state = state or ChannelState()
        self.sent = []

    def look(self, now, *found, partial=False, takes=True):
        """One evaluation; what was sent, if anything."""
        self.state.observe(found, now, repeat=REPEAT, partial=partial)
        notification = self.state.due(now, repeat=REPEAT)
        if notification is None or not takes:
            return None
        self.state.mark_sent(notification)
        sent = {
            name: [f"{each.rule} {each.subject}".strip() for each in getattr(notification, name)]
            for name in ("new", "lasting", "resolved")
        }
        self.sent.append((now, sent))
        return sent


@pytest.fixture
def channel():
    return Channel()


def new(*names):
    return {"new": [*names], "lasting": [], "resolved": []}


# the policy


def test_all_well_is_no_news(channel):
    assert channel.look(NOW) is None
    assert channel.state == ChannelState()


def test_what_is_wrong_is_told_once(channel):
    assert channel.look(NOW, SPILL) == new("spill")
    assert [channel.look(NOW + 15 * each, SPILL) for each in range(1, 900)] == [None] * 899


def test_what_has_to_last_is_told_when_it_has(channel):
    assert channel.look(NOW, PAUSED) is None
    assert channel.look(NOW + 299, PAUSED) is None
    assert channel.look(NOW + 300, PAUSED) == new("sink_paused crm")


def test_what_has_to_last_and_goes_before_is_never_told(channel):
    channel.look(NOW, PAUSED)
    assert channel.look(NOW + 200) is None
    assert channel.look(NOW + 310, PAUSED) is None
    assert channel.state.alerts["sink_paused crm"].since == NOW + 310


def test_it_is_told_again_after_some_hours_and_not_before(channel):
    channel.look(NOW, SPILL)
    assert channel.look(NOW + REPEAT - 1, SPILL) is None
    assert channel.look(NOW + REPEAT, SPILL) == {"new": [], "lasting": ["spill"], "resolved": []}
    assert channel.look(NOW + REPEAT + 15, SPILL) is None


def test_its_end_is_told_once_when_it_has_been_calm(channel):
    channel.look(NOW, SPILL)
    channel.look(NOW + 60, SPILL)
    assert channel.look(NOW + 59 + RESOLVE_AFTER) is None
    assert channel.look(NOW + 60 + RESOLVE_AFTER) == {
        "new": [],
        "lasting": [],
        "resolved": ["spill"],
    }
    assert [channel.look(NOW + 1000 + 15 * each) for each in range(2000)] == [None] * 2000
    assert channel.state.alerts == {}


def test_what_comes_soon_after_a_note_goes_together_with_the_next(channel):
    channel.look(NOW, SPILL)
    assert channel.look(NOW + 15, SPILL, OLD) is None
    told = channel.look(NOW + MIN_GAP, SPILL, OLD, AlertCondition("store", "", "…"))
    assert told == {"new": ["backlog_age crm", "store"], "lasting": ["spill"], "resolved": []}


def test_what_a_channel_did_not_take_is_said_again(channel):
    assert channel.look(NOW, SPILL, takes=False) is None
    assert channel.look(NOW + 30, SPILL) == new("spill")


def test_what_came_and_went_while_a_channel_was_down_is_not_told(channel):
    channel.look(NOW, SPILL, takes=False)
    assert channel.look(NOW + 30) is None


def test_a_restart_forgets_nothing(channel):
    channel.look(NOW, SPILL)
    kept = json.loads(json.dumps(channel.state.to_dict()))
    after = Channel(ChannelState.from_dict(kept))
    assert after.state == channel.state
    assert after.look(NOW + 3600, SPILL) is None
    assert after.look(NOW + 3600 + RESOLVE_AFTER) == {
        "new": [],
        "lasting": [],
        "resolved": ["spill"],
    }


def test_what_cannot_be_seen_is_not_over(channel):
    channel.look(NOW, OLD)
    store = AlertCondition("store", "", "The store cannot be read.")
    for step in range(1, 100):
        channel.look(NOW + step * 60, store, partial=True)
    assert not any(told["resolved"] for _, told in channel.sent)
    channel.look(NOW + 100 * 60)
    assert channel.look(NOW + 100 * 60 + RESOLVE_AFTER)["resolved"] == ["backlog_age crm", "store"]


def test_a_clock_that_jumps_far_ahead_and_back_silences_nothing(channel):
    years = 10 * 365 * 86400
    channel.look(NOW, SPILL)
    assert channel.look(NOW + years, SPILL)["lasting"] == ["spill"]
    assert channel.look(NOW, SPILL) is None
    assert channel.look(NOW + REPEAT, SPILL)["lasting"] == ["spill"]
    assert channel.look(NOW + REPEAT + MIN_GAP, SPILL, OLD)["new"] == ["backlog_age crm"]


def test_a_clock_that_is_set_back_silences_nothing(channel):
    channel.look(NOW, SPILL)
    assert channel.look(NOW - 2 * 86400, SPILL, OLD)["new"] == ["backlog_age crm"]


def test_what_flaps_is_told_less_and_less_often(channel):
    """Ten minutes there, ten not, for a day: told as over only a few times."""
    day = range(0, 86400, 15)
    for second in day:
        flapping = [SPILL] if second // 600 % 2 else []
        channel.look(NOW + second, *flapping)
    assert len(channel.sent) <= 10
    ends = [at for at, told in channel.sent if told["resolved"]]
    assert len(ends) <= 2


def test_there_is_no_storm_whatever_happens():
    """Random flapping of twenty things for a day: few notes, each beginning before its end."""
    for seed in range(4):
        chance = random.Random(seed)
        channel = Channel()
        things = [AlertCondition("sink_paused", f"s{each}", "…") for each in range(20)]
        there = [False] * len(things)
        for second in range(0, 86400, 15):
            there = [
                not each if chance.random() < chance.choice((0.001, 0.05)) else each
                for each in there
            ]
            found = [each for each, is_there in zip(things, there, strict=True) if is_there]
            channel.look(NOW + second, *found)
        times = [at for at, _ in channel.sent]
        assert all(later - before >= MIN_GAP for before, later in itertools.pairwise(times))
        for thing in things:
            name = f"sink_paused {thing.subject}"
            story = [
                kind
                for _, told in channel.sent
                for kind in ("new", "resolved")
                if name in told[kind]
            ]
            assert story == ["new", "resolved"] * (len(story) // 2) + ["new"] * (len(story) % 2)
            assert (
                1 <= len(story) <= 2 * (MAX_DOUBLINGS + 86400 / (RESOLVE_AFTER * 2**MAX_DOUBLINGS))
            )


def test_the_state_of_an_earlier_release_is_read():
    alert = {"rule": "spill", "subject": "", "text": "…", "since": NOW, "seen": NOW + 15}
    alert |= {"hold": 0.0, "told": NOW, "over": None, "returns": 2}
    kept = {"alerts": {"spill ": alert}, "noted": NOW}
    state = ChannelState.from_dict(kept)
    (read,) = state.alerts.values()
    assert (read.last_seen, read.notified) == (NOW + 15, NOW)
    assert (read.resolved, read.recurrences) == (None, 2)
    assert state.to_dict() == kept


def test_whatever_happens_the_end_of_the_story_is_the_truth():
    """Hours after the last change each channel knows what is wrong, and nothing else."""
    for seed in range(20):
        chance = random.Random(seed)
        channel = Channel()
        for second in range(0, 7200, 15):
            channel.look(NOW + second, *[SPILL] * (chance.random() < 0.5))
        last = bool(seed % 2)
        for second in range(7200, 7200 + 4 * 3600, 15):
            channel.look(NOW + second, *[SPILL] * last)
        told = channel.state.alerts.get("spill ")
        assert (told is not None and told.notified is not None) == last


# the rules


def rules(**changes):
    return AlertRules.model_validate(changes)


def found(look, **changes):
    return {(each.rule, each.subject): each for each in conditions(look, rules(**changes))}


def well(**changes):
    """A relay in which nothing is wrong, but for the changes."""
    quiet = {
        "facts": {"relay_store_writable": 1.0, "relay_configuration_valid": 1.0},
        "states": {"crm": SinkStatus("running")},
        "waits": {"crm": BacklogAge(ago(5), ago(5))},
        "sinks": {"crm": SinkCounts(pending=1)},
    }
    return readings(**(quiet | changes))


def test_all_well_is_no_finding():
    look = Snapshot(well(), quarantined=NOW - 7200, keywords={"JOIN": NOW - 60})
    assert found(look, keyword_silent={"JOIN": "24h"}) == {}


@pytest.mark.parametrize(("age", "told"), [(599, False), (600, True)])
def test_an_opt_out_that_has_not_arrived(age, told):
    look = Snapshot(well(waits={"crm": BacklogAge(None, ago(age))}))
    assert (("opt_out_undelivered", "crm") in found(look)) == told
    assert found(look, opt_out_undelivered="never") == {}


def test_an_opt_out_counts_also_where_the_sink_is_disabled():
    assert ("opt_out_undelivered", "old") in found(
        Snapshot(well(waits={"old": BacklogAge(None, ago(1e4))}))
    )


@pytest.mark.parametrize(("age", "told"), [(3599, False), (3600, True)])
def test_a_backlog(age, told):
    look = Snapshot(well(waits={"crm": BacklogAge(ago(age))}))
    assert (("backlog_age", "crm") in found(look)) == told
    assert found(look, backlog_age="never") == {}


def test_a_backlog_of_a_sink_that_is_disabled_is_meant():
    waits = {"gone": BacklogAge(ago(1e6))}
    assert found(Snapshot(well(waits=waits, sinks={"gone": SinkCounts(pending=1)}))) == {}


def test_a_pause_with_its_reason_but_no_number():
    report = SinkStatus("paused", "400: +12125550177 is no number")
    look = Snapshot(well(states={"crm": report}))
    finding = found(look)["sink_paused", "crm"]
    assert (finding.hold, finding.since) == (300, None)
    assert finding.text.startswith("The sink crm is paused: 400: …0177 is no number. Somebody has")
    since, until = 1_800_000_000_000_000, 1_800_000_300_000_000
    report = SinkStatus("paused", "400: +12125550177 is no number", since, until)
    look = Snapshot(well(states={"crm": report}))
    assert found(look)["sink_paused", "crm"].text == (
        "The sink crm is paused since 2027-01-15T08:00:00Z: 400: …0177 is no number. Mend the"
        " cause: it is tried again every five minutes, and at once with `relay sinks resume crm`."
    )
    assert found(look, sink_paused="never") == {}


def test_a_reason_that_ends_with_a_full_stop_is_followed_by_no_other():
    report = SinkStatus("paused", "401: the token has expired.")
    text = found(Snapshot(well(states={"crm": report})))["sink_paused", "crm"].text
    assert "is paused: 401: the token has expired. Somebody has paused it" in text


@pytest.mark.parametrize(("number", "told"), [(2, False), (3, True)])
def test_deliveries_that_were_given_up(number, told):
    look = Snapshot(well(), dead={"crm": number})
    assert (("dead", "crm") in found(look, dead="3/90m")) == told
    assert found(look, dead="never") == {}


def test_deliveries_that_died_say_how_many_and_where_to_look():
    assert found(Snapshot(well(), dead={"crm": 2}))["dead", "crm"].text == (
        "Deliveries to the sink crm were given up (2 within 1 h); `relay dead list` says why."
    )


@pytest.mark.parametrize(("age", "told"), [(3601, False), (3600, True), (-60, True)])
def test_a_growing_quarantine(age, told):
    look = Snapshot(well(), quarantined=NOW - age)
    assert (("quarantine", "") in found(look)) == told
    assert found(look, quarantine="never") == {}


@pytest.mark.parametrize(("age", "told"), [(86399, False), (86400, True)])
def test_a_silent_keyword(age, told):
    look = Snapshot(well(), keywords={"JOIN": NOW - age})
    assert (("keyword_silent", "JOIN") in found(look, keyword_silent={"JOIN": "24h"})) == told


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("relay_store_writable", 0.0, "store"),
        ("relay_spill_records", 3.0, "spill"),
        ("relay_spill_readable", 0.0, "spill"),
        ("relay_configuration_valid", 0.0, "configuration"),
    ],
)
def test_trouble_of_the_relay_itself(name, value, rule):
    assert list(found(Snapshot(well(facts={name: value})))) == [(rule, "")]


def test_a_rule_that_is_switched_off_is_a_time_that_does_not_come():
    assert rules(backlog_age="never").backlog_age == math.inf


# the words


@pytest.fixture
def note():
    channel = Channel()
    channel.look(NOW - 2 * REPEAT, SPILL)
    channel.state.observe([SPILL, OLD], NOW, repeat=REPEAT)
    return channel.state.due(NOW, repeat=REPEAT)


def test_the_subject_says_what_is_new(note):
    assert words.subject(note).endswith("] backlog_age crm")
    lasts = Notification(NOW, [], note.lasting, note.new)
    assert words.subject(lasts).endswith("] still spill; over: backlog_age crm")


def test_the_text_says_since_when(note):
    assert (
        "New:\n- Deliveries wait. (backlog_age crm, since 2027-01-15T06:58:20Z)\n\n"
        "Still so:\n- Callbacks go to the spill file. (spill, since 2027-01-15T00:00:00Z)\n"
    ) in words.text(note)


def test_the_json_says_it_for_programs(note):
    body = orjson.loads(words.payload(note))
    assert (body["type"], body["timestamp"]) == ("relay.alerts", "2027-01-15T08:00:00Z")
    assert body["data"]["new"] == [
        {
            "rule": "backlog_age",
            "subject": "crm",
            "since": "2027-01-15T06:58:20Z",
            "text": "Deliveries wait.",
        }
    ]
    assert [each["rule"] for each in body["data"]["lasting"]] == ["spill"]
    assert body["data"]["over"] == []


def test_the_id_is_that_of_the_note(note):
    assert words.message_id(note) == words.message_id(note)
    assert words.message_id(note) != words.message_id(Notification(NOW, [], note.lasting, []))


# what is remembered


@pytest.fixture
def place(tmp_path):
    return tmp_path / "relay.db.alerts"


def test_a_state_file_is_read_as_it_was_written(place):
    assert StateFile(place).read() == {}
    StateFile(place).write({"channels": {}})
    assert StateFile(place).read() == {"channels": {}}
    assert place.stat().st_mode & 0o007 == 0


@pytest.mark.parametrize("kept", [b"", b"{", b"[]", b'{"channels": 3}', b"\xff"])
def test_a_state_file_that_makes_no_sense_is_a_new_one(place, kept, clock):
    place.write_bytes(kept)
    watch = AlertMonitor(Alerts(), None, None, place, clock, [])
    assert [each.state for each in watch._channels] == [ChannelState()]


async def test_a_disk_that_hangs_does_not_silence_the_alerts(place, clock, monkeypatch, caplog):
    """Neither while the store is read, nor while it is written down what was told."""
    monkeypatch.setattr("relay.alerts.monitor.DISK_TIMEOUT", 0.05)
    hangs, hung = threading.Event(), []

    def write(_, kept):
        hung.append(kept)
        hangs.wait(10)

    monkeypatch.setattr(StateFile, "write", write)
    watch = AlertMonitor(Alerts(), asyncio.Event().wait, None, place, clock, [])
    async with asyncio.timeout(5):
        for _ in range(3):
            await watch.evaluate()
    assert "The store cannot be read" in caplog.text
    assert len(hung) == 1
    hangs.set()
    await watch.stop()


def test_a_state_file_that_cannot_be_written_is_reported_once(tmp_path, caplog):
    state_file = StateFile(tmp_path / "gone" / "relay.db.alerts")
    for number in range(3):
        state_file.write({"number": number})
    assert [each.message for each in caplog.records] == [
        "what was told cannot be written down: No such file or directory"
    ]
    (tmp_path / "gone").mkdir()
    state_file.write({"number": 4})
    assert state_file.read() == {"number": 4}


async def test_keywords_are_known_in_whatever_case_and_never_from_the_future(tmp_path, clock):
    store = await SqliteStore.open(tmp_path / "relay.db", clock=clock)
    keywords = KeywordActivity(["Join", "VIP"], {"VIP": NOW - 50, "GONE": NOW})
    await store.add(arrival(keyword="JOIN", received=ago(-3600)))
    await keywords.update(store, NOW)
    await store.close()
    assert keywords.last == {"Join": NOW, "VIP": NOW - 50}
