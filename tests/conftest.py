"""What every test may want: the folders of the project, and a clock that is moved by hand."""

import signal
from pathlib import Path

import builtins_once
import leftovers
import pytest
import uvloop
from clock import ManualClock
from hypothesis import HealthCheck, settings

# A machine that stands still for a second makes no test wrong.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# In the background or under nohup they are ignored, and so would be by the relays that are started.
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(
            number,
            signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL,
        )

# Relays, receivers and shells that a killed run would leave.
leftovers.watch()

builtins_once.keep()


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's folder."""
    return Path(__file__).parent.parent


@pytest.fixture(scope="session")
def plugins_folder(root) -> Path:
    """The folder of the built-in sinks."""
    return root / "plugins"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def pytest_asyncio_loop_factories():
    """The loop that the relay runs on."""
    return {"uvloop": uvloop.new_event_loop}


def pytest_collection_modifyitems(items):
    """The Makefile finds tests that run alone by a word in their file: elsewhere none would run."""
    for path in {item.path for item in items if item.get_closest_marker("alone")}:
        if "mark.alone" not in path.read_text():
            raise pytest.UsageError(
                f"{path}: write pytest.mark.alone here, or make runs none of it"
            )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Reports between the processes of pytest-xdist are UTF-8: no half of a pair may be in one."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report
