"""Condition: whether the store's file is sound, of this release, and written by a steady clock."""

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import apsw

from relay.clock import MICROSECONDS
from relay.doctor.finding import Finding, ok, problem, warning
from relay.store.sqlite import queries, rows
from relay.store.sqlite.backup import RESERVE, space_needed
from relay.store.sqlite.connection import OLDEST_SQLITE, connect_reader, migrations, sqlite_number
from relay.units import size_text

RECENT = 1000
"""Events whose times are compared."""
STEP = 60
"""Seconds by which a clock may be set right without anybody minding."""
LARGE_LOG = 256 * 1024**2
STEPS = 50_000
"""Of SQLite's machine, between two signs of life."""
TIME_ERROR = 5
RESTORE = "restore a backup: docs/operations.md says how"


def library() -> Iterator[Finding]:
    """Whether SQLite is one that loses nothing."""
    version = apsw.sqlite_lib_version()
    if sqlite_number() < OLDEST_SQLITE:
        yield problem("sqlite", f"SQLite {version} can lose commits", "pip install --upgrade apsw")
    else:
        yield ok("sqlite", f"SQLite {version}")


def store(path: Path, now: float, alive: Callable[[], None] = lambda: None) -> Iterator[Finding]:
    """Look into the file, and change nothing. `alive` is called while that takes its time."""
    if not path.exists():
        yield ok("store", f"{path} is not there yet: the first start makes it")
        return
    try:
        with contextlib.closing(connect_reader(path)) as connection:
            yield _schema(connection)
            yield _sound(connection, path, alive)
            yield from _log(path)
            yield from clock(_times(connection), now)
    except apsw.Error as error:
        yield problem("store", f"{path} cannot be read: {error}", RESTORE)


def _schema(connection: apsw.Connection) -> Finding:
    version, known = rows.value(connection, "PRAGMA user_version"), len(migrations())
    if version > known:
        return problem(
            "schema",
            f"the store has schema {version}, and this release knows {known}",
            "run the newer release, or go back as docs/operations.md says",
        )
    if 0 < version < known:
        room = size_text(space_needed(connection) + RESERVE)
        return warning(
            "schema",
            f"the store has schema {version}, and gets {known} at the next start",
            f"have {room} free beside it, for the copy that is made before",
        )
    return ok("schema", f"the store has schema {version}, that of this release")


def _sound(connection: apsw.Connection, path: Path, alive: Callable[[], None]) -> Finding:
    def go_on() -> bool:
        alive()
        return False

    connection.set_progress_handler(go_on, STEPS)
    found = rows.every(connection, "PRAGMA quick_check(3)")
    if found == [("ok",)]:
        size, free = size_text(path.stat().st_size), size_text(queries.reusable(connection))
        return ok("store", f"{path} is sound; of its {size}, {free} is free for what comes")
    told = "; ".join(str(line) for (line,) in found)
    return problem("store", f"{path} is damaged: {told}", RESTORE)


def _log(path: Path) -> Iterator[Finding]:
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size > LARGE_LOG:
        yield warning(
            "store",
            f"its log has grown to {size_text(log.stat().st_size)}",
            "something reads the store for a long time: end what else has it open",
        )


def _times(connection: apsw.Connection) -> list[float]:
    """When the latest events came in, in seconds, the oldest first."""
    if not rows.value(connection, "PRAGMA user_version"):
        return []
    found = rows.every(
        connection, "SELECT received FROM events ORDER BY seq DESC LIMIT ?", [RECENT]
    )
    return [received / MICROSECONDS for (received,) in reversed(found)]


def clock(times: list[float], now: float) -> Iterator[Finding]:
    """Whether the clock agrees with the times of what was received."""
    back = max((earlier - later for earlier, later in pairwise([*times, now])), default=0.0)
    latest = max(times, default=now)
    if latest > now + STEP:
        yield problem(
            "clock",
            f"it says {_moment(now)}, and an event came in at {_moment(latest)}",
            "set the clock right; retries and pauses wait by it",
        )
    elif back > STEP:
        yield warning(
            "clock",
            f"it went back by {back:.0f} seconds while events came in",
            "keep it right by NTP: timedatectl set-ntp true",
        )
    else:
        yield ok("clock", f"it says {_moment(now)}")


def steady() -> Iterator[Finding]:
    """Whether something keeps the clock right, as the kernel sees it."""
    # The structure has 208 bytes; with its first field zero, nothing is changed.
    with contextlib.suppress(AttributeError, OSError):
        if ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)) == TIME_ERROR:
            yield warning(
                "clock", "nothing keeps it right", "have it set by NTP: timedatectl set-ntp true"
            )


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
