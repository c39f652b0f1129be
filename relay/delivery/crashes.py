"""Crashes and blocking of the event loop by a plugin: logged, counted, ended.

The crash log is a file beside the store. It names the sink if the process ended in its code. It is
written at that moment: by faulthandler at a fatal signal, by the watch thread while a plugin blocks
the event loop, and where a plugin calls `os._exit`. A kill from outside leaves nothing in it. The
next start reads the file, empties it, and counts the crash: the second in a row holds the sink. No
power cut has to be survived, so nothing is synced.
"""

import asyncio
import contextlib
import faulthandler
import io
import itertools
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from relay.delivery import plugin_calls
from relay.delivery.plugin_calls import POSITION, PluginCall, calling
from relay.loop_lag import LAG, LOOKS, LagWatch
from relay.store import SinkState, StoreFull
from relay.store.port import Store

T = TypeVar("T")

LARGEST_LOG = 64 * 1024
"""Bytes of the file that are read and logged."""
DEEPEST = 30
"""Frames of a stack that are written."""
HELD_AFTER = 2
"""Crashes in a row that hold the sink."""
CRASH_AFTER = 1.0
"""Seconds in one step of a plugin's code. A process that ends then has crashed in the plugin."""
TOO_LONG = 15.0
"""Seconds in one step, after which the process ends itself: systemd's watchdog would, after 20."""
COMMAND_LIMIT = 30.0
"""Seconds in one step of a plugin's code, after which a command ends itself."""
OWN = re.compile(r"\A(.+) in (sink [\w-]+: \w+)$", re.MULTILINE)
FATAL = re.compile(r"\AFatal Python error: (.+)$", re.MULTILINE)
CURRENT = re.compile(r"^Current thread .*\n((?:  .*\n?)*)", re.MULTILINE)
RESUMED = re.compile(r"line \d+ in (sink [\w-]+: \w+)$", re.MULTILINE)

log = logging.getLogger("relay")


@dataclass(frozen=True, slots=True)
class Crash:
    """The previous process ended in that call, in this way."""

    call: PluginCall
    how: str


class CrashLog:
    """The crash log of this process, from `begin` on."""

    def __init__(self) -> None:
        self._file: io.FileIO | None = None
        self._process = os.getpid()
        self._loop_thread = threading.get_ident()
        self._end = os._exit

    def begin(self, path: Path) -> Crash | None:
        """Read what the previous process left, and write to the file from now on.

        The store's lock is held: another relay's crash log is left alone. Later calls do nothing.
        """
        if self._file is not None:
            return None
        try:
            file = _open(path)
            left = file.read(LARGEST_LOG).decode(errors="replace")
        except OSError as error:
            log.warning("there is no crash log, so no crash is counted against a sink: %s", error)
            return None
        self._file = file
        self.clear()
        faulthandler.enable(self._file)
        self._wrap_exit()
        if left:
            log.error("the previous process crashed: %s", _summary(left))
        return parse_crash(left)

    def write(self, call: PluginCall, how: str) -> None:
        """Record that the process ends in this call, or may have to be ended."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk
                self._file.write(f"{how} in {call}\n{self._stack()}".encode())

    def clear(self) -> None:
        """Empty the file: the process has not crashed."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.truncate(0)
                self._file.seek(0)

    def _stack(self) -> str:
        """Where the event loop's thread is, in faulthandler's words and without any source text."""
        innermost = sys._current_frames().get(self._loop_thread)  # noqa: SLF001  documented
        frames = itertools.islice(traceback.walk_stack(innermost), DEEPEST)
        return "".join(
            f'  File "{each.f_code.co_filename}", line {line} in {each.f_code.co_name}\n'
            for each, line in frames
        )

    def _wrap_exit(self) -> None:
        """Replace `os._exit`, which leaves no trace, by a function that writes the crash log."""

        def leave(status: int) -> NoReturn:
            if (call := self._call_here()) is not None:
                self.write(call, f"os._exit({status!r})")
                log.critical("the plugin ends the process: os._exit(%r) in %s", status, call)
            self._end(status)

        setattr(os, "_exit", leave)  # noqa: B010  mypy takes it for a mistake

    def _call_here(self) -> PluginCall | None:
        """The call that this thread works for; not in a process that a plugin has forked."""
        if os.getpid() != self._process:
            return None
        in_loop = threading.get_ident() == self._loop_thread
        return POSITION.call if in_loop else calling.get()


def parse_crash(text: str) -> Crash | None:
    """Parse a crash log; None where it names no sink."""
    if own := OWN.match(text):
        return Crash(PluginCall.parse(own[2]), own[1])
    fatal, resumed = FATAL.match(text), RESUMED.search(_current(text))
    return Crash(PluginCall.parse(resumed[1]), fatal[1]) if fatal and resumed else None


def _current(text: str) -> str:
    """The frames of the thread that a fatal signal came to."""
    current = CURRENT.search(text)
    return current[1] if current else ""


def _summary(text: str) -> str:
    """For the log: the first line, and the frames of the thread that matters."""
    return text.partition("\n")[0] + "\n" + _current(text) if FATAL.match(text) else text


def _open(path: Path) -> io.FileIO:
    return io.FileIO(path, "r+", opener=_private)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def with_crash(state: SinkState, crash: Crash) -> SinkState:
    """The sink's state with one more crash, which may be the one that holds it."""
    crashes = state.crashes + 1
    if crashes < HELD_AFTER or state.held is not None:
        return replace(state, crashes=crashes)
    sink, name = crash.call
    reason = (
        f"the relay ended {crashes} times in a row inside this sink's own code, last in {name}"
        f" ({crash.how}); mend the plugin, reload, then: relay sinks resume {sink}"
    )
    return replace(state, crashes=crashes, held=reason)


async def count_crash(
    crash: Crash | None,
    sinks: Collection[str],
    states: Mapping[str, SinkState],
    store: Store,
) -> Mapping[str, SinkState]:
    """The states of these sinks, with the crash of the previous process counted.

    The count is stored before any of the sink's code runs again.
    """
    if crash is None or crash.call.sink not in sinks:
        return states
    sink = crash.call.sink
    state = with_crash(states.get(sink) or SinkState(), crash)
    log.error("the previous process ended inside the code of %s (%s)", crash.call, crash.how)
    with contextlib.suppress(StoreFull):
        await store.save_sink_state(sink, state)
    return {**states, sink: state}


class BlockedLoopWatch:
    """Ends the process when the event loop has been in one step of a plugin's code for too long.

    A second thread calls `look` every `pause` seconds, and `end` is called in that thread. The
    calls are counted, and not the seconds: while the machine is suspended, or so busy that neither
    thread runs, the plugin does not block anything.
    """

    def __init__(
        self,
        crash_log: CrashLog,
        pause: float,
        end: Callable[[], None],
        too_long: float | None = None,
    ) -> None:
        self._too_long = TOO_LONG if too_long is None else too_long
        self._crash_log = crash_log
        self._pause = pause
        self._end = end
        self._step = -1
        self._checks = 0
        self._written = False
        self._stopped = False

    def look(self) -> None:
        """Check whether the loop is still in the step of the last check."""
        step, call = POSITION.steps, POSITION.call
        if self._stopped:
            return
        if call is None or step != self._step:
            self._reset(step)
            return
        self._checks += 1
        passed = self._checks * self._pause
        if passed >= CRASH_AFTER and not self._written:
            self._written = True
            self._crash_log.write(call, f"no return for {CRASH_AFTER:g} s")
        if passed >= self._too_long:
            self._give_up(call)

    def stop(self) -> None:
        """Watch no more: the process stops, which has another limit and is no crash."""
        self._stopped = True
        self._crash_log.clear()

    def _reset(self, step: int) -> None:
        self._step = step
        self._checks = 0
        if self._written:
            self._written = False
            self._crash_log.clear()

    def _give_up(self, call: PluginCall) -> None:
        self._crash_log.clear()
        self._crash_log.write(call, f"no return for {self._too_long:g} s")
        log.critical("no return for %g s in %s", self._too_long, call)
        self._end()


def run_watched(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work that calls sinks. A plugin that blocks it is named in the log."""

    async def watched() -> T:
        asyncio.get_running_loop().set_task_factory(plugin_calls.task_factory)
        blocked = BlockedLoopWatch(CrashLog(), LAG / LOOKS, _give_up, too_long=COMMAND_LIMIT)
        watch = LagWatch(look=blocked.look)
        watch.start()
        try:
            return await work
        finally:
            watch.stop()

    return asyncio.run(watched())


def _give_up() -> None:
    log.critical("the plugin blocks this command, which ends here")
    os._exit(1)
