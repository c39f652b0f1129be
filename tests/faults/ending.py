"""A process that ends by kill -9 at its Nth change of a file, whether SQLite or Python makes it."""

# ruff: noqa: N802  the methods have SQLite's names

import itertools
import os
import signal
import sys
import traceback

import apsw

CALLS = (
    *("fsync", "fdatasync", "truncate", "ftruncate", "pwrite"),
    *("rename", "replace", "link", "unlink"),
)
NEVER = sys.maxsize


def changes(work) -> int:
    """How many changes it makes, when nothing ends it."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as told:
        _in_child(NEVER, work, writer)
        os.close(writer)
        return int(told.read())


def killed_at(number, work) -> bool:
    """Do it in a child; whether the child came to that change, and was killed just before it."""
    return _in_child(number, work) == signal.SIGKILL


def _in_child(number, work, writer=None) -> int:
    child = os.fork()
    if not child:
        status = 1
        try:
            count = _arm(number)
            work()
            if writer is not None:
                os.write(writer, b"%d" % next(count))
            status = 0
        except BaseException:  # noqa: BLE001  no child goes on as pytest
            traceback.print_exc()
        finally:
            os._exit(status)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status


def _arm(number):
    """From now on, changes count."""
    count = itertools.count()

    def tick():
        if next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(call):
        def counting(*args, **named):
            tick()
            return call(*args, **named)

        return counting

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    _arm.vfs = _vfs(tick)  # it lives as long as the child
    return count


def _vfs(tick):
    usual = apsw.vfs_names()[0]

    class File(apsw.VFSFile):
        def xWrite(self, data, offset):
            tick()
            super().xWrite(data, offset)

        def xSync(self, flags):
            tick()
            super().xSync(flags)

        def xTruncate(self, size):
            tick()
            super().xTruncate(size)

    class Vfs(apsw.VFS):
        def __init__(self):
            super().__init__("ending", usual, makedefault=True)

        def xOpen(self, name, flags):
            return File(usual, name, flags)

        def xDelete(self, name, sync):
            tick()
            super().xDelete(name, sync)

    return Vfs()
