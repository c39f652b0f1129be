"""What a plugin does when it is loaded or made has a time limit, and is named while it lasts."""

import logging
import signal
import subprocess
import sys
import threading
import time

import pytest

from relay.config import timelimit
from relay.config.loader import ConfigError, load
from relay.config.timelimit import TookTooLong, limited
from relay.delivery.manager import make_sink

YAML = """
sources: {sumotext: {country: US}}
sinks: {own: {plugin: own}}
"""
OWN = """
import time
import relay

class Options(relay.Options):
    def model_post_init(self, _):
        {options}

class Own(relay.Sink):
    Options = Options

    def __init__(self, *given):
        {init}
        super().__init__(*given)

    async def send(self, delivery):
        pass

@relay.hookimpl
def register_sinks(register):
    {hook}
    register("own", Own)

{top}
"""
HOUR = "time.sleep(3600)"
QUICK = 2.0
"""Seconds, in place of the limits of a minute and more."""
STUBBORN = """
while True:
    try:
        time.sleep(3600)
    except BaseException:
        pass
"""


@pytest.fixture
def quick(monkeypatch):
    # The built-in sinks are loaded, too, and that takes its time on a busy machine.
    for name, value in {
        "IMPORT": QUICK,
        "MAKE": QUICK,
        "LOG_INTERVAL": 0.2,
        "ERROR_INTERVAL": 0.1,
    }.items():
        monkeypatch.setattr(timelimit, name, value)
    # No other test of this process goes by what was too slow for this one.
    monkeypatch.setattr(timelimit, "_failed", {})
    for module in ("plugins", "sinks", "sources"):
        found = sys.modules[f"relay.config.{module}"]
        for name in {"IMPORT", "MAKE"} & vars(found).keys():
            monkeypatch.setattr(found, name, QUICK)
    monkeypatch.setattr(sys.modules["relay.delivery.manager"], "MAKE", QUICK)


@pytest.fixture
def plugin(tmp_path):
    """Writes relay.yaml with this plugin; where it is."""

    def write(**does):
        parts = {"options": "pass", "init": "pass", "hook": "pass", "top": ""} | does
        (tmp_path / "plugins").mkdir(exist_ok=True)
        (tmp_path / "plugins/own.py").write_text(OWN.format(**parts))
        path = tmp_path / "relay.yaml"
        path.write_text(YAML)
        return path

    return write


@pytest.mark.parametrize("where", ["top", "hook", "options"])
@pytest.mark.usefixtures("quick")
def test_a_plugin_that_never_ends_is_a_mistake_with_its_place(plugin, caplog, where):
    path = plugin(**{where: HOUR})
    line = OWN.partition("{" + where + "}")[0].count("\n") + 1
    begun = time.monotonic()
    with pytest.raises(ConfigError) as refused:
        load(path, {})
    assert time.monotonic() - begun < 30  # in place of an hour
    place = f"{path.parent}/plugins/own.py:{line}"
    assert f"no end within {QUICK:g} s; it was in {place}" in str(refused.value)
    assert f"so far, now in {place}" in caplog.text


@pytest.mark.usefixtures("quick")
def test_it_is_not_waited_for_a_second_time(plugin, monkeypatch):
    path = plugin(top=HOUR)
    with pytest.raises(ConfigError):
        load(path, {})
    monkeypatch.setattr(sys.modules["relay.config.plugins"], "IMPORT", 60)
    begun = time.monotonic()
    with pytest.raises(ConfigError, match=f"no end within {QUICK:g} s"):
        load(path, {})
    assert time.monotonic() - begun < 30  # in place of a minute


@pytest.mark.usefixtures("quick")
async def test_a_sink_whose_init_never_ends_cannot_be_made(plugin, clock):
    path = plugin(init=HOUR)
    config = load(path, {}).sinks["own"]
    with pytest.raises(Exception, match=rf"plugins/own\.py: no end within {QUICK:g} s") as refused:
        make_sink(config, clock)
    assert "cannot make it" in str(refused.value)


def test_code_that_goes_on_after_errors_ends_the_process(plugin):
    path = plugin(top=STUBBORN)
    code = (
        "import sys, pathlib\n"
        "from relay.config import plugins, timelimit\n"
        f"plugins.IMPORT = {QUICK}\n"
        "timelimit.LOG_INTERVAL = timelimit.ERROR_INTERVAL = 0.1\n"
        "plugins.load([pathlib.Path(sys.argv[1])])\n"
    )
    line = [sys.executable, "-c", code, str(path.parent / "plugins")]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 78
    assert f"own.py: no end within {QUICK:g} s" in ended.stderr


def test_in_time_nothing_is_said_and_the_former_alarm_is_put_back(caplog):
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(True))
    left = signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with limited("it", 10), caplog.at_level(logging.INFO):
            pass
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
        time.sleep(0.4)
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *left)
    assert rung
    assert not caplog.text


@pytest.mark.usefixtures("quick")
def test_in_another_thread_there_is_no_limit():
    ended = []

    def work():
        with limited("a thread", 0.1):
            time.sleep(0.5)
        ended.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended


def pass_over():
    with limited("passing over", 0.1):
        try:
            time.sleep(60)
        except Exception:  # noqa: BLE001  as plugins do
            pytest.fail("it was caught")


@pytest.mark.usefixtures("quick")
def test_no_exception_handler_of_a_plugin_passes_over_it():
    with pytest.raises(TookTooLong, match=r"no end within 0\.1 s"):
        pass_over()


LEAVES = """
import os
from os import _exit as kept

if not os.fork():
    os._exit(0)
os.wait()
os._exit(3)
"""


def test_an_import_that_ends_the_process_is_a_mistake_with_its_place(plugin):
    path = plugin(top=LEAVES)
    line = OWN.partition("{top}")[0].count("\n") + LEAVES.count("\n")
    with pytest.raises(ConfigError, match=rf"own\.py:{line}: ends the process when imported"):
        load(path, {})


def test_what_a_plugin_has_kept_ends_the_process_later():
    code = (
        "from relay.config.timelimit import limited\n"
        "with limited('it', 10):\n    from os import _exit\n"
        "_exit(7)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], timeout=30, check=False)
    assert ended.returncode == 7
