"""A machine with a real systemd: an image laid over this one's files, booted in a container.

What it writes goes into a file system in memory. Its network is a loopback of its own, into which
the test goes with `network`, so that all its senders reach the machine's addresses.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from relay.install import COMMAND, CONFIG, DATA, HIDDEN, LINKS, SERVICE, SOCKET

ROOT = Path(__file__).parents[2]
CLONE_NEWNET = 0x40000000
BOOTS_WITHIN = 60.0
POLL = 0.05
RELAY = Path("/opt/relay")
"""The relay's own environment of Python in the machine, where the documentation has it."""
PROGRAM = RELAY / "bin/relay"
SOURCE = Path("/opt/relay-source")
PACKAGES = Path("/opt/relay-packages")
TARGET = """\
[Unit]
Requires=basic.target
After=basic.target
AllowIsolate=yes
"""
SCRIPT = """\
#!{python}
import sys
from relay.cli import main
sys.exit(main())
"""


class Machine:
    """Boots, runs commands, and leaves nothing behind."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._console = folder.with_name("console.log")
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self.root = folder / "root"

    @classmethod
    @contextlib.contextmanager
    def booted(cls, folder: Path, *, prepare: Callable[[Path], None] | None = None):
        """`prepare` gets the image before it is booted.

        Skips, with the reason, where this machine does not let another one be booted.
        """
        machine = cls(folder)
        with contextlib.ExitStack() as undo:
            machine._lay(undo)
            machine._install()
            if prepare:
                prepare(machine.root)
            undo.callback(machine._halt)
            machine._boot()
            yield machine

    def run(self, *words, check=True) -> str:
        """What a command prints in the machine."""
        done = subprocess.run(
            ["nsenter", "-t", str(self._leader), "-m", "-u", "-i", "-n", "-p", *map(str, words)],
            capture_output=True,
            text=True,
            env={"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
            check=False,
        )
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def shown(self, key: str, unit: str = "relay.service") -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", key, unit).strip()

    def until(self, condition, seconds: float = 30.0):
        """Wait for a condition; what it gave."""
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, self.journal()[-3000:]
            time.sleep(POLL)
        return found

    def journal(self) -> str:
        return self.run("journalctl", "-u", "relay", "-o", "cat", "--no-pager", check=False)

    def file(self, path: Path | str) -> Path:
        """A file of the machine, seen from here."""
        return self.root / str(path).lstrip("/")

    @contextlib.contextmanager
    def network(self):
        """This thread's new sockets are the machine's."""
        places = (Path("/proc/self/ns/net"), Path(f"/proc/{self._leader}/ns/net"))
        with places[0].open() as ours, places[1].open() as theirs:
            _enter(theirs.fileno())
            try:
                yield
            finally:
                _enter(ours.fileno())

    # its making

    def _lay(self, undo: contextlib.ExitStack) -> None:
        """All of this machine's own files, and none of what is mounted on them."""
        self._folder.mkdir()
        self._mount(undo, self._folder, "-t", "tmpfs", "-o", "mode=755", "tmpfs")
        for name in ("root", "upper", "work"):
            (self._folder / name).mkdir()
        layers = f"lowerdir=/,upperdir={self._folder}/upper,workdir={self._folder}/work"
        self._mount(undo, self.root, "-t", "overlay", "-o", layers, "overlay")

    def _mount(self, undo: contextlib.ExitStack, place: Path, *words: str) -> None:
        done = subprocess.run(["mount", *words, place], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
        undo.callback(subprocess.run, ["umount", "--lazy", place], check=True)

    def _install(self) -> None:
        """The relay, with the Python and the packages that run this test, in /opt."""
        for path in (RELAY, CONFIG.parent, DATA, *LINKS, SERVICE, SOCKET, COMMAND):
            _remove(self.file(path))  # a relay that is installed on this machine
        python = visible_python()
        environment = self.file(RELAY)
        packages = environment / "lib" / python.name / "site-packages"
        packages.mkdir(parents=True)
        (packages / "relay.pth").write_text(f"{SOURCE}\n{PACKAGES}\n")
        (environment / "pyvenv.cfg").write_text(f"home = {python.parent}\n")
        (environment / "bin").mkdir()
        (environment / "bin/python").symlink_to(python)
        program = self.file(PROGRAM)
        program.write_text(SCRIPT.format(python=RELAY / "bin/python"))
        program.chmod(0o755)
        for name in ("relay", "plugins", "config"):
            shutil.copytree(ROOT / name, self.file(SOURCE / name))
        self.file(PACKAGES).mkdir()
        self.file("/etc/systemd/system/trial.target").write_text(TARGET)

    def _boot(self) -> None:
        # Should this test be ended, so is the machine.
        words = ["setpriv", "--pdeathsig=KILL", "systemd-nspawn", "--quiet", "--boot"]
        words += ["--register=no", "--keep-unit", "--private-network", "--machine=relay-trial"]
        words += [f"--bind-ro={sysconfig.get_path('purelib')}:{PACKAGES}"]
        with self._console.open("wb") as console:
            self._process = subprocess.Popen(
                [*words, "--directory", self.root, "systemd.unit=trial.target"],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        end = time.monotonic() + BOOTS_WITHIN
        while not self._is_up():
            if self._process.poll() is not None or time.monotonic() > end:
                said = self._console.read_text(errors="replace")[-300:]
                pytest.skip(f"systemd cannot be booted in a container here: {said}")
            time.sleep(POLL)

    def _is_up(self) -> bool:
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        with contextlib.suppress(OSError):
            self._leader = int((children.read_text().split() or ["0"])[0])
        if not self._leader:
            return False
        return self.run("systemctl", "is-active", "trial.target", check=False).strip() == "active"

    def _halt(self) -> None:
        if self._process and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._leader, 9)
            self._process.wait(30)


def needed() -> None:
    """Skip where a machine can surely not be booted."""
    if os.geteuid() != 0:
        pytest.skip("this needs root, to boot a container")
    if shutil.which("systemd-nspawn") is None:
        pytest.skip("systemd-nspawn is not here: apt-get install systemd-container")
    visible_python()


def visible_python() -> Path:
    """This version of Python at a place that the service can see."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for folder in (Path(sys.base_prefix), Path("/usr"), Path("/usr/local")):
        python = folder / "bin" / name
        if python.exists() and not any(python.is_relative_to(hidden) for hidden in HIDDEN):
            return python
    return pytest.skip(f"there is no {name} outside of homes: apt-get install {name}")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
