"""Checks of the store's file, the clock it is written by, and the disks and files around it."""

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import apsw

from relay import fsutil
from relay.clock import MICROSECONDS
from relay.config.loader import Config
from relay.doctor import Finding, ok, problem, warning
from relay.ownership import user_name
from relay.spill import file as spillfile
from relay.spill.disk import DiskSpace
from relay.state_directory import StateDirectory, wal, wal_files
from relay.store.sqlite import queries, rows
from relay.store.sqlite.backup import RESERVE, space_needed
from relay.store.sqlite.connection import OLDEST_SQLITE, connect_reader, sqlite_number
from relay.store.sqlite.migrate import migrations
from relay.units import size_text

RECENT = 1000
"""The number of events with compared times."""
STEP = 60
"""Seconds by which a clock may be set right without anybody minding."""
LARGE_LOG = 256 * 1024**2
STEPS = 50_000
"""Of SQLite's machine, between two signs of life."""
RESTORE = "restore a backup: docs/operations.md says how"
REMOTE = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "glusterfs")
IN_MEMORY = ("tmpfs", "ramfs")
FEW_FILES = 1000
OLD = 30 * 86400
"""Seconds; a copy that is older has likely done its duty."""


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
    log = wal(path)
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


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def disks(config: Config, store: Path) -> Iterator[Finding]:
    """Whether there is room, on something that lasts."""
    there = fsutil.existing(store)
    yield _kind(store, _file_system(there))
    yield _room(config, store)
    spill = config.state.spill
    if fsutil.existing(spill).stat().st_dev != there.stat().st_dev:
        yield _room(config, spill)
    found = os.statvfs(there)
    if found.f_files and found.f_favail < FEW_FILES:
        yield problem(
            "disk",
            f"the disk of {store} has room for {found.f_favail} more files only",
            "remove files there",
        )


def _kind(store: Path, name: str | None) -> Finding:
    if name in REMOTE:
        return problem(
            "disk",
            f"{store} is on a network share ({name}), on which SQLite can lose data",
            "move it to a local disk",
        )
    if name in IN_MEMORY:
        return problem(
            "disk",
            f"{store} is in memory ({name}): with the machine's next start it is gone",
            "move it to a disk",
        )
    return ok("disk", f"{store} is on a local disk{f' ({name})' if name else ''}")


def _room(config: Config, path: Path) -> Finding:
    disk = DiskSpace.of(path)
    keep = disk.reserve(config.store_reserve)
    free = f"the disk of {path} has {size_text(disk.free)} free"
    size = config.store.stat().st_size if isinstance(config.store, Path) and path.exists() else 0
    if disk.free < keep:
        return problem(
            "disk", f"{free}: below {size_text(keep)}, callbacks are turned away", "make room"
        )
    if disk.free < size + RESERVE:
        return warning(
            "disk", f"{free}: too little for a copy before an upgrade", "make room before long"
        )
    return ok("disk", free)


def permissions(config: Config, store: Path) -> Iterator[Finding]:
    """Whether the files belong to the service, and no other user can read them."""
    if not store.exists():
        return
    owner = store.stat().st_uid
    found = [each for path in _files(config.state) for each in _closed(path, owner)]
    if not os.access(store.parent, os.W_OK | os.X_OK, effective_ids=True):
        found.append(
            problem(
                "permissions",
                f"{store.parent} cannot be written by {user_name(os.geteuid())}",
                f"chown {user_name(owner)} {store.parent}",
            )
        )
    yield from found or [ok("permissions", f"the files are {user_name(owner)}'s alone")]


def _files(state: StateDirectory) -> list[Path]:
    files = [
        state.folder,
        state.store,
        *wal_files(state.store),
        state.lock,
        state.ballast,
        state.spill,
        *state.damaged_spills(),
        *state.store_copies(),
    ]
    return [path for path in files if path.exists()]


def _closed(path: Path, owner: int) -> Iterator[Finding]:
    found = path.stat()
    if found.st_mode & 0o006:
        yield problem("permissions", f"everybody can get at {path}", f"chmod o= {path}")
    if found.st_uid != owner:
        yield problem(
            "permissions",
            f"{path} belongs to {user_name(found.st_uid)}, the store to {user_name(owner)}",
            f"chown {user_name(owner)} {path}",
        )


def leftovers(state: StateDirectory, now: float) -> Iterator[Finding]:
    """The spill, and the copies that migrations made."""
    spill, rejected = state.spill, state.rejected_lines
    if reason := spillfile.unreadable(spill):
        yield problem(
            "spill",
            f"{spill} cannot be read: {reason}; callbacks in it are not delivered",
            "have the relay's user own it: a running relay tries it again every few seconds",
        )
    elif waiting := spillfile.count(spill):
        wait = "1 callback waits" if waiting == 1 else f"{waiting} callbacks wait"
        yield warning(
            "spill",
            f"{wait} in {spill}, as the store could not be written",
            "they go there by themselves while the relay runs; its log says what hinders it",
        )
    else:
        yield ok("spill", "no callback waits beside the store")
    if rejected.exists():
        yield problem(
            "spill",
            f"{rejected} has callbacks that were damaged on disk and could not be read",
            "see what can be told of them, then move it away; and look after that disk",
        )
    for file in state.damaged_spills():
        yield problem(
            "spill",
            f"{file} could not be read everywhere; the callbacks that could were taken in",
            "what is lacking may be in it: look after that disk, then move the file away",
        )
    for copy in state.store_copies():
        days = int(now - copy.stat().st_mtime) // 86400
        if days * 86400 > OLD:
            yield warning(
                "copies",
                f"{copy} is {days} days old, and holds what has been purged or erased since",
                "remove it, unless you mean to go back to that release",
            )


def ballast(config: Config, *, running: bool) -> Iterator[Finding]:
    """The file that gives up its place when the disk is full; only a running relay keeps one."""
    file = config.state.ballast
    if file.exists():
        found = file.stat()
        if found.st_blocks * 512 < found.st_size:
            yield warning("ballast", f"{file} has holes", "remove it: the relay makes it anew")
        else:
            yield ok("ballast", f"{size_text(found.st_size)} are kept for a full disk")
    elif running and config.store_reserve:
        yield warning(
            "ballast", "it was given up, as the disk is full or has been", "make room on the disk"
        )


def _file_system(path: Path) -> str | None:
    """Its type, as the kernel names it; None where that is not to be found out."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return None
    kinds = [line.partition(" - ")[2].split()[0] for line in lines if line.split()[2] == number]
    return kinds[-1] if kinds else None
