"""What root runs on the service's files, while that user plants links to root's own."""

import contextlib
import os
import re
import stat
import subprocess
import sys
import sysconfig
from pathlib import Path

import apsw
import httpx
import pytest
import rooted
from rooted import FATAL, KINDS, NAMES, USER

import relay
from relay import ownership
from relay.config import last_good_file
from relay.state_directory import StateDirectory

pytestmark = rooted.needed

NUMBER = "+12125550000\n"
COMMANDS = {
    "status": ("status",),
    "check": ("check", "--online"),
    "doctor": ("doctor", "--offline"),
    "events": ("events", "list", "--json"),
    "dead": ("dead", "list", "--json"),
    "quarantine": ("quarantine", "list", "--json"),
    "sinks": ("sinks", "pause", "archive"),
    "replay": ("replay", "--sink", "archive", "--since", "9999d"),
    "consent": ("consent", "export"),
    "purge": ("purge", "--older-than", "1d", "--yes"),
    "erase": ("erase", "--yes"),
    "setup": ("setup", "archive"),
    "plugins": ("plugins", "new", "mine"),
    "backup": ("backup", "{roots}/copy.db"),
    "backup there": ("backup", "{state}/copy.db"),
    "restore": ("restore", "{roots}/backup.db", "--yes"),
}


@pytest.fixture
def here():
    with rooted.place() as place:
        yield place


WELL = {"doctor": (0, 1)}
"""The doctor may find something; all others end with 0."""


def run(here, name, **more):
    words = [each.format(roots=here.roots, state=here.state) for each in COMMANDS[name]]
    return here.root(*words, stdin=NUMBER, **more)


def planted(here, kind, names=NAMES):
    for name in names:
        here.plant(name, kind)


def rights_kept():
    """What the commands did before: they gave up root after this, or never."""
    ownership.give_up_root = lambda _: None
    ownership.acting_for = lambda _: contextlib.nullcontext()
    ownership.is_root = lambda: False


# what an attacker plants


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "link") for name in COMMANDS),
        *((name, kind) for name in ("restore", "backup there") for kind in KINDS[1:]),
        ("doctor", "pipe"),
    ],
)
def test_no_command_touches_or_shows_what_is_roots(here, name, kind):
    planted(here, kind, [each for each in NAMES if each not in FATAL])
    run(here, name)
    if (copy := here.roots / "copy.db").exists():
        here.changed(copy)
    here.untouched()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("relay.db.spill", kind) for kind in KINDS),
        *((f"relay.db{end}", "hard link") for end in ("-wal", "-shm", "-journal")),
        *((f"relay.db{end}", "pipe") for end in ("-journal", ".lock")),
        ("relay.db.lock", "dangling link"),
    ],
)
def test_nor_by_a_file_without_which_the_store_cannot_be_opened(here, name, kind):
    here.plant(name, kind)
    run(here, "restore")
    here.untouched()


@pytest.mark.parametrize("kind", ["link", "hard link"])
def test_with_roots_rights_a_link_in_place_of_the_spill_costs_root_a_file(here, kind):
    """The control."""
    here.plant("relay.db.spill", kind)
    run(here, "restore", before=rights_kept)
    assert here.secret.read_bytes() != rooted.SECRET


def test_with_roots_rights_a_link_in_place_of_the_lock_makes_a_file_of_roots(here):
    """The control."""
    here.plant("relay.db.lock", "dangling link")
    run(here, "status", before=rights_kept)
    assert (here.roots / "made").exists()


@pytest.mark.parametrize("name", ["status", "restore"])
def test_a_link_in_place_of_the_store_keeps_no_rights_of_roots(here, name):
    """A link counts as what it is, and so does one that has the inode of a file of root's."""
    for kind in ("link", "hard link"):
        here.store.unlink()
        here.plant(here.store.name, kind)
        run(here, name)
        here.untouched()
        here.restore_store()


# what must go on working


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_does_its_work_and_leaves_the_files_to_their_owner(here, name):
    status, said = run(here, name)
    assert status in WELL.get(name, (0,)), said
    assert here.of_root() == set()


def test_a_backup_is_roots_alone_where_root_puts_it(here):
    assert run(here, "backup")[0] == 0
    found = (here.roots / "copy.db").stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o600)
    assert [each.name for each in here.roots.iterdir() if "partial" in each.name] == []


def test_a_backup_in_the_services_folder_is_the_services(here):
    assert run(here, "backup there")[0] == 0
    found = (here.state / "copy.db").stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (USER, 0o600)


def test_what_root_restores_belongs_to_the_owner_of_the_store(here):
    """From a file that this owner cannot read."""
    before = here.events()
    with contextlib.closing(apsw.Connection(str(here.store))) as writer:
        writer.execute("DELETE FROM events WHERE seq > 5").fetchall()
    here.all_users()
    status, said = run(here, "restore")
    assert status == 0, said
    assert here.events() == before
    assert [each.name for each in here.state.glob("relay.db.replaced-*")]
    assert here.of_root() == set()
    here.untouched()


def test_a_copy_with_a_log_of_its_own_is_restored_whole(here):
    """As `cp` makes one of a store that is open."""
    with contextlib.closing(apsw.Connection(str(here.store))) as writer:
        writer.pragma("journal_mode", "WAL")
        writer.pragma("wal_autocheckpoint", 0)
        writer.execute("DELETE FROM events WHERE seq > 7").fetchall()
        for end in ("", "-wal"):
            copy = here.roots / f"backup.db{end}"
            copy.write_bytes((here.state / f"relay.db{end}").read_bytes())
            here.changed(copy)
    here.all_users()
    status, said = run(here, "restore")
    assert status == 0, said
    assert here.events() == 7
    here.untouched()


def test_a_store_of_roots_in_a_folder_of_another_user_stays_roots(here):
    """As in a container, whose folder is mounted from outside."""
    os.chown(here.store, 0, 0)
    for name in ("status", "purge", "restore"):
        status, said = run(here, name)
        assert status == 0, said
    assert here.store.stat().st_uid == 0


# a relay.yaml that is wrong


EVIL = """\
import os, pathlib
place = pathlib.Path({state!r})
(place / "ran").write_text(str(os.getresuid()))
try:
    os.setresuid(0, 0, 0)
    (pathlib.Path({roots!r}) / "evil").touch()
except OSError:
    pass
"""


def plant_plugin(here):
    """The service's user says what the relay last started with: with a plugin of its own."""
    plugins = here.state / "plugins"
    plugins.mkdir()
    (plugins / "evil.py").write_text(EVIL.format(state=str(here.state), roots=str(here.roots)))
    right = here.yaml.read_text().replace("plugins: [plugins]", f"plugins: [{plugins}]")
    place = StateDirectory.around(here.store).last_good_config
    place.write_bytes(last_good_file.content(here.yaml, right.encode()))
    here.all_users()
    here.yaml.write_text(here.yaml.read_text() + "wrong: true\n")


@pytest.mark.parametrize("name", ["status", "check", "restore"])
def test_what_the_service_names_as_a_plugin_is_not_run_as_root(here, name):
    plant_plugin(here)
    run(here, name)
    assert (here.state / "ran").read_text() == str((USER, USER, USER))
    here.untouched()


def test_with_roots_rights_it_is(here):
    """The control."""
    plant_plugin(here)
    run(here, "status", before=rights_kept)
    assert (here.roots / "evil").exists()


# the relay itself


@contextlib.contextmanager
def running(here, *around):
    """`relay run` as root; asks that it takes callbacks, and ends it."""
    words = [*around, _interpreter(), "-m", "relay.cli", "run", "--config", str(here.yaml)]
    paths = [str(Path(relay.__file__).parents[1]), sysconfig.get_path("purelib")]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with subprocess.Popen(
        words, stderr=subprocess.PIPE, text=True, cwd=here.home, env=environ
    ) as process:
        said = []
        try:
            for line in process.stderr:
                said.append(line)
                if match := re.search(r'callbacks are taken on ([^\s"]+)', line):
                    break
            else:
                raise AssertionError("".join(said))
            yield match[1], said
        finally:
            process.terminate()
            said += process.stderr.readlines()


def _interpreter():
    """One that other users can run, too: this one may lie in a folder of root's."""
    library = "import os; os.stat(os.__file__)"
    for each in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run([each, "-c", library], check=True, user=USER, extra_groups=[])
            return each
    pytest.skip("no interpreter of this version that other users can run")


def test_a_relay_that_root_runs_follows_no_link_and_leaves_its_files_to_their_owner(here):
    planted(here, "link", [each for each in NAMES if each not in FATAL])
    with running(here) as (url, said):
        answer = httpx.post(url, content="mobile=2125551212&lead=KEY&msg=hello")
        assert answer.status_code == 200
    assert "files are read and written as #54321" in "".join(said)
    assert here.of_root() == set()
    here.untouched()


def test_root_that_may_become_no_other_user_goes_on_and_says_so(here):
    """As in some containers: there it has no rights over files of others, either."""
    around = ("unshare", "--user", "--map-root-user")
    if subprocess.run([*around, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no namespace of users can be made here")
    here.store.unlink()
    here.state.chmod(0o777)
    with running(here, *around) as (url, said):
        assert httpx.post(url, content="mobile=2125551212&lead=KEY&msg=hi").status_code == 200
    assert "root may follow links" in "".join(said)


def test_a_port_below_1024_is_roots_all_the_same():
    """What `relay run` as root gives up is the rights over files."""
    code = (
        "import pathlib, socket, sys; from relay import ownership;"
        " ownership.give_up_files(ownership.owner_of(pathlib.Path(sys.argv[1])));"
        " assert not ownership.is_root();"
        " sock = socket.socket(); sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1);"
        " sock.bind(('127.0.0.1', 1023)); print('bound')"
    )
    with rooted.place() as here:
        words = [sys.executable, "-c", code, str(here.store)]
        assert subprocess.check_output(words, text=True) == "bound\n"
