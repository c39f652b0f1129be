"""strace puts faults in at the border of the kernel, so that all of the relay is the real one."""

import shutil
import subprocess

import pytest


def needed() -> None:
    """Skip where there is no strace, or where it may not look into a process."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: apt-get install strace")
    if subprocess.run(["strace", "-o", "/dev/null", "true"], check=False).returncode:
        pytest.skip("strace may not trace processes here")


def inject(relay, calls, fault, when, paths=()) -> None:
    """Put a fault into these calls (on these files), at the numbers `when` of each thread.

    `fault` is error=…, delay_enter=… or signal=…, as strace has it. -D: the relay stays our own
    child.
    """
    relay.under = ["strace", "-D", "-f", "-qq", "-o", str(_log(relay))]
    if not fault.startswith("signal"):
        relay.under.append("--seccomp-bpf")  # faster; signals do not come through with it
    for path in paths:
        relay.under += ["-P", str(path)]
    relay.under += ["-e", f"trace={calls}", "-e", f"inject={calls}:{fault}:when={when}"]


def stop_injecting(relay) -> None:
    relay.under = []


def injected(relay) -> int:
    """How often the fault fired."""
    if not _log(relay).exists():
        return 0
    told = _log(relay).read_text()
    return told.count("(INJECTED)") + told.count("(DELAYED)")


def _log(relay):
    return relay.folder / "strace.log"
