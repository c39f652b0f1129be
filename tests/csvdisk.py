"""A disk that fails at a chosen step, under the csv sink. As a script, it forks a child a job.

A step is the time before, within or after a call that changes a file or the ledger. At the chosen
one the process is killed, as by kill -9; or the power goes: then whatever was not synced may be
there, missing, torn or zeros, as the seed says.
"""

import json
import os
import random
import shutil
import signal
import sys
from pathlib import Path

import csvsink
from csvsink import journal_module

CALLS = ("open", "pwrite", "fsync", "ftruncate", "rename", "mkdir")
BATCHES = (range(3), range(3, 4), range(2, 9), range(9, 12))


class Disk:
    """Stands between the sink and `os`. Everything that it remembers dies with the process."""

    def __init__(self, folder, stop_at, power, seed):
        self.folder = Path(folder)
        self.stop_at = stop_at
        self.power = power
        self.random = random.Random(f"{seed} {stop_at}")
        self.steps = 0
        self.real = {name: getattr(os, name) for name in CALLS}
        self.contents = {}
        self.names = []
        self.ledger = {}

    def install(self):
        for name in CALLS:
            setattr(os, name, getattr(self, name))
        for name in ("announce", "finish", "take_back", "sync"):
            setattr(journal_module.Journal, name, self.around_ledger(name))

    def step(self):
        self.steps += 1
        if self.steps == self.stop_at:
            if self.power:
                self.forget()
            os.kill(os.getpid(), signal.SIGKILL)

    # the calls

    def open(self, path, flags, mode=0o777):
        new = bool(flags & os.O_CREAT) and not Path(path).exists()
        self.step()
        fd = self.real["open"](path, flags, mode)
        if new and str(path).endswith(".csv"):
            self.names.append(("create", Path(path)))
            self.contents[os.fstat(fd).st_ino] = b""
        self.step()
        return fd

    def mkdir(self, path, mode=0o777):
        self.step()
        self.real["mkdir"](path, mode)
        self.names.append(("mkdir", Path(path)))
        self.step()

    def rename(self, source, target):
        self.step()
        self.real["rename"](source, target)
        self.names.append(("rename", Path(source), Path(target)))
        self.step()

    def pwrite(self, fd, data, offset):
        self.remember(fd)
        self.step()
        half = self.real["pwrite"](fd, data[: len(data) // 2], offset)
        self.step()
        rest = self.real["pwrite"](fd, data[half:], offset + half)
        self.step()
        return half + rest

    def ftruncate(self, fd, size):
        self.remember(fd)
        self.step()
        self.real["ftruncate"](fd, size)
        self.step()

    def fsync(self, fd):
        self.step()
        self.real["fsync"](fd)
        path = Path(f"/proc/self/fd/{fd}").readlink()
        if path.is_dir():
            self.names = [change for change in self.names if change[-1].parent != path]
        self.contents.pop(os.fstat(fd).st_ino, None)
        self.step()

    def around_ledger(self, name):
        method = getattr(journal_module.Journal, name)

        def around(*args):
            self.step()
            method(*args)
            if name != "finish":
                self.ledger = {file: file.read_bytes() for file in self.ledger_files()}
            self.step()

        return around

    # the cut

    def remember(self, fd):
        """Keep what is on disk, before the first change since the last fsync."""
        size = os.fstat(fd).st_size
        self.contents.setdefault(os.fstat(fd).st_ino, os.pread(fd, size, 0))

    def ledger_files(self):
        return list(self.folder.rglob(".*.ledger*"))

    def forget(self):
        for file in self.folder.rglob("*.csv"):
            old = self.contents.get(file.stat().st_ino)
            if old is not None:
                file.write_bytes(self.left_of(old, file.read_bytes()))
        for change in reversed(self.names[self.random.randint(0, len(self.names)) :]):
            self.undo(*change)
        if self.ledger and self.random.random() < 0.5:
            for file in self.ledger_files():
                file.unlink()
            for file, data in self.ledger.items():
                file.write_bytes(data)

    def left_of(self, old, new):
        tear = self.random.randint(min(len(old), len(new)), len(new))
        zeros = new[:tear] + bytes(len(new) - tear)
        return self.random.choice([old, new, new[:tear], zeros])

    def undo(self, kind, path, target=None):
        if kind == "create":
            path.unlink(missing_ok=True)
        elif kind == "mkdir" and not self.ledger:
            shutil.rmtree(path, ignore_errors=True)
        elif kind == "rename":
            self.real["rename"](target, path)


# What the controls leave out.


def without_announcing():
    """Note the ids behind the write, as one would at first."""
    ledger = journal_module.Journal
    announce, finish = ledger.announce, ledger.finish

    def late(self):
        announce(self, self.late)
        finish(self)

    ledger.announce = lambda self, append: setattr(self, "late", append)
    ledger.finish = late


def without_settling():
    journal_module.CsvFile.settle = lambda _, append, **__: append.ids


def without_fsync():
    os.fsync = lambda _: None


CONTROLS = {
    "none": lambda: None,
    "announcing": without_announcing,
    "settling": without_settling,
    "fsync": without_fsync,
}


def archive(folder):
    made = csvsink.sink(folder, columns=("text",), rotate={"size": "400B"})
    return made._files


def batch(numbers):
    return [
        csvsink.delivery(number, {"text": f'{number},\n"{"x" * (number * 7 % 40)}"'})
        for number in numbers
    ]


def work(folder, stop_at, power=False, seed=0, control="none"):
    """Write the batches, and note in the file `acknowledged` what was delivered."""
    with (Path(folder) / "acknowledged").open("a", buffering=1) as acknowledged:
        Disk(folder, stop_at, power, seed).install()
        CONTROLS[control]()
        under_test = archive(folder)
        under_test.open()
        for numbers in BATCHES:
            outcomes = under_test.write(batch(numbers))
            for number, outcome in zip(numbers, csvsink.delivered(outcomes), strict=True):
                if outcome:
                    acknowledged.write(f"{number}\n")


def serve():
    for line in sys.stdin:
        child = os.fork()
        if not child:
            work(**json.loads(line))
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
