"""What root runs on the files of a service whose user has been taken over.

    with rooted.place() as here:
        here.plant("relay.db.spill", "link")
        status, said = here.root("restore", here.backup, "--yes")
        here.untouched()

Root's own files lie in `here.roots`, closed to all others; the service's in `here.state`, where its
user has planted links to them. A command runs in a child of this process, so that it may give up
root.
"""

import contextlib
import functools
import os
import signal
import stat
import sys
import tempfile
import traceback
from pathlib import Path

import apsw
import pytest
from olderstore import make_older

from relay.cli import main
from relay.store.sqlite.migrate import connect_writer

USER = 54321
"""The service's; no account has this number."""
SECRET = b"root:$6$saltsalt$of-root-alone:20000:0:99999:7:::\nthe last line"
PATIENCE = 20
"""Seconds for a command, which a pipe could hold up for ever."""

YAML = """\
store: {state}/relay.db
plugins: [plugins]
server: {{listen: "127.0.0.1:0"}}
admin: {{listen: "127.0.0.1:0"}}
sources: {{sumotext: {{country: US}}}}
sinks:
  archive: {{plugin: csv, options: {{path: {state}/events.csv}}}}
"""
STORE = "relay.db"
NAMES = (
    *("relay.db-wal", "relay.db-shm", "relay.db-journal", "relay.db.lock", "relay.db.sock"),
    *("relay.db.spill", "relay.db.spill.new", "relay.db.spill.bad", "relay.db.spill.bad.new"),
    *("relay.db.alerts", "relay.db.alerts.new", "relay.db.ballast", "relay.db.crash"),
    *("relay.db.valid.yaml", "relay.db.valid.yaml.new"),
    *(".relay.db.partial", ".copy.db.partial", "copy.db", "relay.db.before-schema-2"),
    *("events.csv", ".events.csv.erasing", ".events.csv-56c24d4e.ledger"),
)
"""All that a command opens, makes or looks for beside the store."""
FATAL = ("relay.db-wal", "relay.db-shm", "relay.db-journal", "relay.db.lock", "relay.db.spill")
"""Without these no command gets far."""
KINDS = ("link", "dangling link", "hard link", "pipe")

HAS_LOG, HAS_NONE = (b"\x10\0" + number + b"\0@" for number in (b"\2\2", b"\1\1"))
"""What the head of a store says, and that of a backup."""

needed = pytest.mark.skipif(os.geteuid() != 0, reason="giving up root is for root to do")


@contextlib.contextmanager
def place():
    """Under /tmp: the folders of tmp_path are closed to other users."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Place(Path(folder))


class Place:
    def __init__(self, folder):
        self.roots, self.state, self.home = (folder / each for each in ("root", "state", "etc"))
        for each, mode in ((self.roots, 0o700), (self.state, 0o700), (self.home, 0o755)):
            each.mkdir()
            each.chmod(mode)
        self.yaml = self.home / "relay.yaml"
        self.yaml.write_text(YAML.format(state=self.state))
        self.store = self.state / STORE
        self.backup = self.roots / "backup.db"
        self.secret = self.roots / "secret"
        self.secret.write_bytes(SECRET)
        self.secret.chmod(0o600)  # a hard link leads to what its mode lets the service read
        self.store.write_bytes(_store())
        self.backup.write_bytes(_store().replace(HAS_LOG, HAS_NONE, 1))
        for each in (self.store, self.backup):
            each.chmod(0o600)
        for each in (self.state, self.store):
            os.chown(each, USER, USER)
        self._before = self._roots_files()

    def plant(self, name, kind):
        """What an attacker who is the service's user can put there."""
        path = self.state / name
        path.unlink(missing_ok=True)
        match kind:
            case "link":
                path.symlink_to(self.secret)
            case "dangling link":
                path.symlink_to(self.roots / "made")
            case "hard link":  # which the system may refuse to users, and may not
                path.hardlink_to(self.secret)
                return
            case "pipe":
                os.mkfifo(path)
        os.chown(path, USER, USER, follow_symlinks=False)

    def root(self, *words, before=lambda: None, stdin=""):
        """Run a command as root; its status and what it said. Fails where it takes for ever."""
        with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as answers:
            answers.write(stdin)
            answers.seek(0)
            child = os.fork()
            if not child:
                self._in_child(words, before, answers, output)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            output.seek(0)
            said = output.read()
        assert status != -signal.SIGALRM, f"{words}: it waited for ever: {said}"
        assert "Traceback" not in said, said
        return status, said

    def _in_child(self, words, before, answers, output):
        status = 1
        try:
            for number, file in enumerate((answers, output, output)):
                os.dup2(file.fileno(), number)
            sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest's time limit has its own
            signal.alarm(PATIENCE)
            os.chdir(self.home)
            os.environ["RELAY_CONFIG"] = str(self.yaml)
            before()
            main([str(each) for each in words])
        except SystemExit as end:
            status = end.code or 0
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:  # noqa: BLE001  no child goes on as pytest
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(status)

    def untouched(self):
        """Root's files are as they were; and none of what they hold can be read by the service."""
        assert self._roots_files() == self._before
        for path in self.state.rglob("*"):
            found = path.lstat()
            if stat.S_ISREG(found.st_mode) and found.st_ino != self.secret.stat().st_ino:
                assert b"of-root-alone" not in path.read_bytes(), path

    def changed(self, path):
        """Root has made or changed this."""
        self._before |= {path: _told(path)}

    def of_root(self):
        """The files in the service's folder that are root's."""
        return {
            path.name
            for path in self.state.rglob("*")
            if path.lstat().st_uid == 0 and path.lstat().st_ino != self.secret.stat().st_ino
        }

    def all_users(self):
        """Have all in the service's folder be the service's."""
        for path in self.state.rglob("*"):
            os.chown(path, USER, USER, follow_symlinks=False)

    def restore_store(self):
        self.store.unlink(missing_ok=True)
        self.store.write_bytes(_store())
        os.chown(self.store, USER, USER)

    def events(self):
        with contextlib.closing(apsw.Connection(str(self.store))) as connection:
            return connection.execute("SELECT count(*) FROM events").get

    def _roots_files(self):
        return {path: _told(path) for path in self.roots.iterdir()}


@functools.cache
def _store():
    """A store of this release with some events."""
    with tempfile.TemporaryDirectory() as folder:
        path = make_older(Path(folder) / STORE)
        connect_writer(path).close()
        return path.read_bytes()


def _told(path):
    found = path.lstat()
    return found.st_mode, found.st_uid, found.st_gid, path.read_bytes()
