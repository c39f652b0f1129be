"""A file system through FUSE, for any process: a power cut, and it forgets what was not synced.

It is all in memory. A file's writes are on disk when the file is synced, a name (made, moved or
removed) when its folder is; what was not yet may be there after a cut, or not, or be torn.

    with amnesia.mounted(folder) as disk:
        ... write into the folder ...
        disk.cut(chance)      # from now on everything fails, as nothing is there any more
        ... kill who wrote ...
        disk.heal()           # what the cut has left
    with disk.failing():  # no sync works, and what it was for is taken for written all the same
        ...

As a program: `python tests/faults/amnesia.py FOLDER`.
"""

# ruff: noqa: ARG002  the methods have FUSE's parameters

import contextlib
import errno
import itertools
import os
import random
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
from forgetful import File, Write, apply

try:
    import mfusepy
except (ImportError, OSError) as error:  # it is there, but the system's library is not
    mfusepy, MISSING = None, str(error)

KEEP, CUT, HEAL = "user.keep", "user.cut", "user.heal"
FAIL, WORK = "user.fail", "user.work"
DAMAGES = ("drop", "some", "reorder", "tear")
ROOT = "/"
BLOCK = 4096
MOUNTS_WITHIN = 10.0


def needed() -> None:
    """Skip where nobody can mount a file system of their own."""
    if mfusepy is None:
        pytest.skip(f"no file system of our own: {MISSING}; apt-get install fuse3")
    if shutil.which("fusermount3") is None or not os.access("/dev/fuse", os.W_OK):
        pytest.skip("no file system of our own: this needs /dev/fuse; apt-get install fuse3")


# what a test does


class Disk:
    """The mounted file system, from outside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self) -> None:
        """All that is there now is on disk."""
        self._tell(KEEP)

    def cut(self, chance: random.Random) -> int:
        """The power goes; how many writes and changed names were not on disk then."""
        return int(self._tell(f"{CUT}.{chance.getrandbits(64)}.{chance.choice(DAMAGES)}"))

    def heal(self) -> None:
        """The power is back: there is what the cut has left."""
        self._tell(HEAL)

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """As Linux does it: a later sync knows nothing of what one that failed was for."""
        self._tell(FAIL)
        try:
            yield
        finally:
            self._tell(WORK)

    def _tell(self, what: str) -> bytes:
        return os.getxattr(self.folder, what)


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[Disk]:
    folder.mkdir(parents=True)
    process = subprocess.Popen([sys.executable, __file__, folder])
    try:
        end = time.monotonic() + MOUNTS_WITHIN
        while not folder.is_mount():
            assert process.poll() is None, "the file system could not be mounted"
            assert time.monotonic() < end, "the file system was not mounted"
            time.sleep(0.01)
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=False)
        process.kill()  # by itself it would wait for all who have ever seen the mount
        process.wait()


# the file system


class Node(File):
    """A file or folder: what is on disk of it, what was written since, and how it looks now."""

    def __init__(self, mode: int) -> None:
        super().__init__()
        self.mode = mode
        self.content = bytearray()

    @classmethod
    def of(cls, mode: int, content: bytes) -> "Node":
        """One that is on disk."""
        node = cls(mode)
        node.content, node.durable = bytearray(content), bytearray(content)
        return node

    def write(self, write: Write) -> None:
        apply(self.content, write)
        self.pending.append(write)


Change = tuple[str, str, Node | None]
"""(folder, path, what has that name now or None); a move is two of them, one after the other."""


class Names:
    """Which node has which name: now, and on disk."""

    def __init__(self) -> None:
        self.now: dict[str, Node] = {ROOT: Node(stat.S_IFDIR | 0o755)}
        self.durable = dict(self.now)
        self.pending: list[list[Change]] = []

    def change(self, *changes: tuple[str, Node | None]) -> None:
        step = [(parent(path), path, node) for path, node in changes]
        settle(self.now, step)
        self.pending.append(step)

    def sync(self, folder: str) -> None:
        """A folder's names are on disk; those of a move both, as no file system loses them."""
        for step in self.pending:
            if any(each == folder for each, _, _ in step):
                settle(self.durable, step)
        self.pending = [step for step in self.pending if all(each[0] != folder for each in step)]

    def survivors(self, chance: random.Random, damage: str) -> dict[str, Node]:
        """As a journal leaves them: those up to some moment; and in them what is on disk."""
        left = dict(self.durable)
        for step in self.pending[: chance.randint(0, len(self.pending))]:
            settle(left, step)
        return {
            path: Node.of(node.mode, bytes(node.survivor(chance, damage)))
            for path, node in left.items()
            if all(str(above) in left for above in PurePosixPath(path).parents)
        }


def settle(names: dict[str, Node], step: list[Change]) -> None:
    for _, path, node in step:
        if node is None:
            names.pop(path, None)
        else:
            names[path] = node


def parent(path: str) -> str:
    return str(PurePosixPath(path).parent)


def fail(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class Amnesia(mfusepy.Operations if mfusepy else object):
    """What the kernel asks for."""

    use_ns = True

    def __init__(self) -> None:
        self._names = Names()
        self._left: dict[str, Node] | None = None
        self._opened: dict[int, Node] = {}
        self._handles = itertools.count(1)
        self._fails = False

    # the power

    def getxattr(self, path, name, position=0):
        if path == ROOT and name.startswith(CUT):
            return str(self._cut(name)).encode()
        if path == ROOT and name in (KEEP, HEAL):
            self._begin(self._names.now if name == KEEP else self._left)
            return b"-"
        if path == ROOT and name in (FAIL, WORK):
            self._fails = name == FAIL
            return b"-"
        raise fail(errno.ENODATA)

    def _cut(self, name: str) -> int:
        *_, seed, damage = name.split(".")
        self._left = self._names.survivors(random.Random(seed), damage)
        unsynced = sum(len(node.pending) for node in self._names.now.values())
        return unsynced + len(self._names.pending)

    def _begin(self, names: dict[str, Node]) -> None:
        """With these on disk."""
        for node in names.values():
            node.sync()
        self._names = Names()
        self._names.now = names
        self._names.durable = dict(names)
        self._left = None

    # what stands there

    def _node(self, path: str, fh: int | None = None) -> Node:
        if fh in self._opened:
            return self._opened[fh]
        if path not in self._names.now:
            raise fail(errno.ENOENT)
        return self._names.now[path]

    def _powered(self) -> None:
        if self._left is not None:
            raise fail(errno.EIO)

    def getattr(self, path, fh=None):
        node = self._node(path, fh)
        size = len(node.content)
        return {
            "st_mode": node.mode,
            "st_nlink": 1 + stat.S_ISDIR(node.mode),
            "st_size": size,
            "st_blocks": (size + 511) // 512,
            "st_uid": os.getuid(),
            "st_gid": os.getgid(),
        }

    def readdir(self, path, fh):
        return [".", "..", *(Path(each).name for each in self._inside(path))]

    def _inside(self, folder: str) -> list[str]:
        return [each for each in self._names.now if each != ROOT and parent(each) == folder]

    def statfs(self, path):
        space = dict.fromkeys(("f_blocks", "f_bfree", "f_bavail"), 1 << 22)
        return space | {"f_bsize": BLOCK, "f_frsize": BLOCK, "f_namemax": 255}

    # names

    def _make(self, path: str, mode: int) -> Node:
        self._powered()
        node = Node(mode)
        self._names.change((path, node))
        return node

    def mknod(self, path, mode, dev):
        self._make(path, mode)
        return 0

    def mkdir(self, path, mode):
        self._make(path, stat.S_IFDIR | mode)
        return 0

    def create(self, path, mode, fi=None):
        return self._open(self._make(path, stat.S_IFREG | stat.S_IMODE(mode)))

    def unlink(self, path):
        self._powered()
        self._names.change((path, None))
        return 0

    def rmdir(self, path):
        if self._inside(path):
            raise fail(errno.ENOTEMPTY)
        return self.unlink(path)

    def rename(self, old, new):
        self._powered()
        moved = [each for each in self._names.now if each == old or each.startswith(f"{old}/")]
        self._names.change(
            *((each, None) for each in moved),
            *((new + each.removeprefix(old), self._names.now[each]) for each in moved),
        )
        return 0

    # files

    def open(self, path, flags):
        return self._open(self._node(path))

    def _open(self, node: Node) -> int:
        handle = next(self._handles)
        self._opened[handle] = node
        return handle

    def release(self, path, fh):
        self._opened.pop(fh, None)
        return 0

    def read(self, path, size, offset, fh):
        return bytes(self._node(path, fh).content[offset : offset + size])

    def write(self, path, data, offset, fh):
        self._powered()
        self._node(path, fh).write((offset, data))
        return len(data)

    def truncate(self, path, length, fh=None):
        self._powered()
        node = self._node(path, fh)
        if length > len(node.content):
            node.write((len(node.content), bytes(length - len(node.content))))
        node.write((length, None))
        return 0

    def fsync(self, path, datasync, fh):
        self._powered()
        if self._fails:
            self._node(path, fh).pending.clear()
            raise fail(errno.EIO)
        self._node(path, fh).sync()
        return 0

    def fsyncdir(self, path, datasync, fh):
        self._powered()
        self._names.sync(path)
        return 0

    def chmod(self, path, mode):
        node = self._node(path)
        node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode)
        return 0

    def chown(self, path, uid, gid):
        return 0

    def utimens(self, path, times=None):
        return 0


if __name__ == "__main__":
    mfusepy.FUSE(
        Amnesia(),
        sys.argv[1],
        foreground=True,
        nothreads=True,
        hard_remove=True,  # a file that is removed while it is open gets no name in its place
        attr_timeout=0,
        entry_timeout=0,
        negative_timeout=0,
    )
