"""The crash log: a file beside the store that says in which sink's code the process ended.

It is written only when that happens: by faulthandler at a fatal signal, by the watch thread while
the event loop does not come back from a plugin, and where a plugin calls `os._exit`. A kill from
outside leaves nothing here, wherever the event loop was. The next start reads the file and empties
it. No power cut has to be survived, so nothing is synced.
"""

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
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from relay.delivery.plugincode import POSITION, Call, calling

SUFFIX = ".crash"
LONGEST = 64 * 1024
"""Bytes of the file that are read and told."""
DEEPEST = 30
"""Frames of a stack that are written."""
OWN = re.compile(r"\A(.+) in (sink [\w-]+: \w+)$", re.MULTILINE)
FATAL = re.compile(r"\AFatal Python error: (.+)$", re.MULTILINE)
CURRENT = re.compile(r"^Current thread .*\n((?:  .*\n?)*)", re.MULTILINE)
RESUMED = re.compile(r"line \d+ in (sink [\w-]+: \w+)$", re.MULTILINE)

log = logging.getLogger("relay")


@dataclass(frozen=True, slots=True)
class Crash:
    """The previous process ended in that call, in this way."""

    call: Call
    how: str


class CrashLog:
    """The crash log of this process, from `begin` on."""

    def __init__(self) -> None:
        self._file: io.FileIO | None = None
        self._process = os.getpid()
        self._loop_thread = threading.get_ident()
        self._end = os._exit

    def begin(self, store: Path) -> Crash | None:
        """Read what the previous process left, and write to the file from now on.

        The store's lock is held: another relay's crash log is left alone. Later calls do nothing.
        """
        if self._file is not None:
            return None
        try:
            file = _opened(store.with_name(store.name + SUFFIX))
            left = file.read(LONGEST).decode(errors="replace")
        except OSError as error:
            log.warning("there is no crash log, so no crash is counted against a sink: %s", error)
            return None
        self._file = file
        self.clear()
        faulthandler.enable(self._file)
        self._watch_exits()
        if left:
            log.error("the previous process crashed: %s", _told(left))
        return read(left)

    def write(self, call: Call, how: str) -> None:
        """The process is about to end in this call, or may have to be ended."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk
                self._file.write(f"{how} in {call}\n{self._stack()}".encode())

    def clear(self) -> None:
        """Nothing is wrong any more."""
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

    def _watch_exits(self) -> None:
        """`os._exit` ends a process without a trace, unless it leaves one itself."""

        def leave(status: int) -> NoReturn:
            if (call := self._call_here()) is not None:
                self.write(call, f"os._exit({status!r})")
                log.critical("the plugin ends the process: os._exit(%r) in %s", status, call)
            self._end(status)

        setattr(os, "_exit", leave)  # noqa: B010  mypy takes it for a mistake

    def _call_here(self) -> Call | None:
        """The call that this thread works for; not in a process that a plugin has forked."""
        if os.getpid() != self._process:
            return None
        in_loop = threading.get_ident() == self._loop_thread
        return POSITION.call if in_loop else calling.get()


def read(text: str) -> Crash | None:
    """What a crash log says; None where it names no sink."""
    if own := OWN.match(text):
        return Crash(Call.parse(own[2]), own[1])
    fatal, resumed = FATAL.match(text), RESUMED.search(_current(text))
    return Crash(Call.parse(resumed[1]), fatal[1]) if fatal and resumed else None


def _current(text: str) -> str:
    """The frames of the thread that a fatal signal came to."""
    current = CURRENT.search(text)
    return current[1] if current else ""


def _told(text: str) -> str:
    """For the log: the first line, and the frames of the thread that matters."""
    return text.partition("\n")[0] + "\n" + _current(text) if FATAL.match(text) else text


def _opened(path: Path) -> io.FileIO:
    return io.FileIO(path, "r+", opener=_private)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o600)
