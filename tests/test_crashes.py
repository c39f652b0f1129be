"""A standstill is counted in looks; a crash is counted where the crash log names a sink."""

import logging
from dataclasses import replace

import pytest
from workers import ScriptedSink, sink_config

from relay.delivery import crashes
from relay.delivery.crashes import BlockedLoopWatch, Crash, CrashLog, with_crash
from relay.delivery.gate import STEADY, SinkGate
from relay.delivery.plugin_calls import PluginCall, inside
from relay.delivery.safe_quota import SafeQuota
from relay.store import SinkState

CALL = PluginCall("crm", "send")
PAUSE = 0.25
FATAL = """Fatal Python error: Segmentation fault

Thread 0x00007f6365a666c0 (most recent call first):
  File "/relay/delivery/plugincode.py", line 85 in sink other: send

Current thread 0x00007fd0fd009b80 (most recent call first):
  File "/lib/ctypes/__init__.py", line 519 in string_at
  File "/plugins/bad.py", line 11 in send
  File "/relay/delivery/plugincode.py", line 85 in sink crm: send
  File "/relay/cli/run.py", line 61 in _run
"""


class Log:
    """Stands for the crash log."""

    def __init__(self):
        self.written = []

    def write(self, call, how):
        self.written.append((call, how))

    def clear(self):
        self.written.clear()


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def ends():
    return []


@pytest.fixture
def standstill(log, ends):
    return BlockedLoopWatch(log, PAUSE, lambda: ends.append(True))


def look(standstill, seconds):
    for _ in range(int(seconds / PAUSE)):
        standstill.look()


def test_a_second_in_one_step_is_written_down(standstill, log, ends):
    with inside(CALL):
        look(standstill, 1.0)
        assert not log.written
        standstill.look()
        assert log.written == [(CALL, "no return for 1 s")]
        look(standstill, 10)
    assert len(log.written) == 1
    standstill.look()
    assert not log.written, "it has come back"
    assert not ends


def test_many_short_steps_are_no_standstill(standstill, log, ends):
    for _ in range(100):
        with inside(CALL):
            standstill.look()
    look(standstill, 20)
    assert not log.written
    assert not ends


def test_too_long_in_one_step_ends_the_process(standstill, log, ends):
    with inside(CALL):
        look(standstill, 15)
        assert not ends
        standstill.look()
    assert ends
    assert log.written == [(CALL, "no return for 15 s")]


def test_what_blocks_a_stop_is_no_crash(standstill, log, ends):
    with inside(CALL):
        look(standstill, 2)
        standstill.stop()
        look(standstill, 20)
    assert not log.written
    assert not ends


@pytest.mark.parametrize(
    ("text", "crash"),
    [
        ("", None),
        ("os._exit(9) in sink crm: send\n  File …\n", Crash(CALL, "os._exit(9)")),
        (
            "no return for 1 s in sink crm: open\n",
            Crash(PluginCall("crm", "open"), "no return for 1 s"),
        ),
        (FATAL, Crash(CALL, "Segmentation fault")),
        (FATAL.replace("85 in sink crm: send", "85 in main"), None),
        (
            "no return for 1 s in sink crm: open\n" + FATAL,
            Crash(PluginCall("crm", "open"), "no return for 1 s"),
        ),
        ("\0" * 100, None),
    ],
)
def test_what_a_crash_log_says(text, crash):
    assert crashes.parse_crash(text) == crash


def test_a_crash_log_of_another_is_not_followed(tmp_path, caplog):
    other = tmp_path / "other"
    other.write_text("keep")
    (tmp_path / "relay.db.crash").symlink_to(other)
    assert CrashLog().begin(tmp_path / "relay.db.crash") is None
    assert other.read_text() == "keep"
    assert "no crash log" in caplog.text


def test_the_second_crash_in_a_row_holds_the_sink():
    once = with_crash(SinkState(), Crash(CALL, "os._exit(9)"))
    assert (once.crashes, once.held) == (1, None)
    twice = with_crash(once, Crash(CALL, "os._exit(9)"))
    assert twice.crashes == 2
    assert "last in send (os._exit(9))" in twice.held


class Saved(list):
    """The states that a gate has saved."""

    async def __call__(self, state):
        self.append(replace(state))


@pytest.fixture
def saved():
    return Saved()


@pytest.fixture
def gate(clock, saved):
    state = SinkState(crashes=1)
    quota = SafeQuota("crm", ScriptedSink(), logging.getLogger("relay.sinks.crm"))
    return SinkGate(sink_config(), state, quota, clock, saved, lambda: None)


async def test_ten_minutes_at_work_begin_the_count_again(gate, clock, saved):
    gate.resume_clock()
    await clock.advance(STEADY - 1)
    await gate.save()
    await clock.advance(1)
    await gate.save()
    assert [state.crashes for state in saved] == [1, 0]


async def test_an_orderly_stop_begins_the_count_again(gate, saved):
    await gate.stop()
    assert saved[-1].crashes == 0


async def test_a_breaker_that_closes_does_not_begin_the_count_again(gate, saved):
    await gate.trip_breaker("refused")
    await gate.resume()
    assert saved[-1].crashes == 1
