"""An upgrade stops no relay: what only the new release finds wrong is a warning at first."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from upgrades import CASES, STRONG, refusing, rule_sites

from relay.cli import main
from relay.config import last_good_file
from relay.config.loader import ConfigError
from relay.preflight import vetted
from relay.reexec import Inherited
from relay.server.sockets import ADMIN, PUBLIC, Listeners
from relay.service import started

RELEASE = "(an error from release 0.3.0 on)"
VALUES = {"EMPTY": "", "QUOTED": '"abc"', "PADDED": f" {STRONG}"}
CALLBACK = f"/callbacks/sumotext/{STRONG}?mobile=2125550123&shortcode=84700&key=JOIN&reply=A"
NAMES = [f"{case.site.rpartition('/')[2]}-{number}" for number, case in enumerate(CASES)]


@pytest.fixture
def environment(monkeypatch):
    """As a service of systemd's has it, with some variables that relay.yaml names."""
    given = {"INVOCATION_ID": "1", "SYSTEMD_EXEC_PID": str(os.getpid()), **VALUES}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MANAGERPID", raising=False)


@contextlib.contextmanager
def listeners(host="127.0.0.1"):
    """Sockets as systemd passes them: what relay.yaml says of addresses is not used then."""
    with socket.create_server((host, 0)) as public, socket.create_server(("127.0.0.1", 0)) as admin:
        yield Listeners({PUBLIC: [public], ADMIN: [admin]})


def yesterdays(case, folder):
    """A relay.yaml with which an earlier release has started."""
    path = folder / "relay.yaml"
    path.write_text(case.yaml())
    path.chmod(0o600)
    case.prepare(path)
    (folder / "data").mkdir()
    copy = folder / "data/relay.db.valid.yaml"
    copy.write_bytes(last_good_file.content(path, path.read_bytes()))
    return path


async def found(path, host):
    """The warnings of a start."""
    with listeners(host) as given:
        return (await vetted(path, given)).warnings


async def answer(path, host):
    """The status of the answer to a callback."""
    with listeners(host) as given:
        port = given.activated[PUBLIC][0].getsockname()[1]
        config = await vetted(path, given)
        async with (
            started(config, inherited=Inherited(given)),
            httpx.AsyncClient(trust_env=False, verify=False) as http,
        ):
            response = await http.get(f"http://127.0.0.1:{port}{CALLBACK}")
        return response.status_code


async def refusal(path, host):
    with listeners(host) as given, pytest.raises(ConfigError) as refused:
        await vetted(path, given)
    return refused.value


def test_each_new_rule_has_a_case(root):
    assert rule_sites(root) == {case.site for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_the_file_of_yesterday_is_right_and_a_changed_one_is_refused(case, tmp_path, environment):
    path = yesterdays(case, tmp_path)
    warnings = asyncio.run(found(path, case.host))
    assert [each for each in warnings if case.said in each and each.endswith(RELEASE)], warnings
    path.write_text(path.read_text() + "# changed\n")
    wrong = asyncio.run(refusal(path, case.host))
    assert wrong.is_of_new_rules()
    assert case.said in str(wrong)


ONE_EACH = {case.site: case for case in CASES}


@pytest.mark.parametrize("site", ONE_EACH)
def test_with_the_file_of_yesterday_callbacks_are_taken(site, tmp_path, environment):
    case = ONE_EACH[site]
    assert asyncio.run(answer(yesterdays(case, tmp_path), case.host)) == 200


def test_a_rule_without_a_case_is_noticed():
    """The control."""
    text = "class A:\n    def check(self, info):\n        new_rule(info, 'wrong')\n"
    assert list(refusing(text)) == ["A.check"]
    text = "def check():\n    add_issues([Issue((), 'wrong', refused_from=REFUSED_FROM)])\n"
    assert list(refusing(text)) == ["check"]


# a relay of yesterday's with many of them, and the commands

MANY = f"""\
server: {{listen: 'localhost:8081', proxies: [10.0.0.0/8], connections: {{total: 1000000000}}}}
sources: {{sumotext: {{tokens: [{STRONG}, short, "two words {STRONG}"]}}}}
retention: {{delivered: 0s}}
alerts: {{repeat: 1ms}}
sinks:
  one: {{plugin: csv, options: {{path: data/x.csv}}, concurrency: true, map: {{<<: {{a: b}}}}}}
  two: {{plugin: csv, options: {{path: data/x.csv}}, retry: {{attempts: 1000000000}}}}
  hook:
    plugin: webhook
    options: {{url: "http://10.0.0.5/a", auth: {{bearer: ""}}, headers: {{X-Key: ""}}}}
    timeout: 1ms
  crm:
    plugin: salesforce
    options: {{login_url: "https://acme.my.salesforce.com", client_id: a, client_secret: ""}}
"""
MISTAKES = 15
START = """
import os, sys
os.environ["LISTEN_PID"] = os.environ["SYSTEMD_EXEC_PID"] = str(os.getpid())
for number, each in enumerate(sys.argv[1:3]):
    os.dup2(int(each), 3 + number)
os.execv(sys.executable, [sys.executable, "-m", "relay.cli", "run"])
"""


@contextlib.contextmanager
def running(folder):
    """`relay run` with sockets of systemd's: its log until it is ready, and its port."""
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parent.parent),
        "INVOCATION_ID": "1",
        "LISTEN_FDS": "2",
        "LISTEN_FDNAMES": "public:admin",
    }
    with listeners() as given:
        descriptors = given.descriptors()
        port = given.activated[PUBLIC][0].getsockname()[1]
        with subprocess.Popen(
            [sys.executable, "-c", START, *map(str, descriptors)],
            cwd=folder,
            env=environment,
            pass_fds=descriptors,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield log_until_ready(process), port
            finally:
                process.terminate()
                process.communicate()


def log_until_ready(process):
    messages = []
    for line in process.stderr:
        messages.append(json.loads(line)["message"])
        if "callbacks are taken on" in messages[-1]:
            return messages
    raise AssertionError(f"it ended: {messages}")


def command(folder, *words):
    words = [*words, "--config", str(folder / "relay.yaml")]
    return CliRunner().invoke(main, words, catch_exceptions=False)


def test_a_relay_with_many_of_them_runs_and_each_command_names_them(tmp_path):
    path = tmp_path / "relay.yaml"
    path.write_text(MANY)
    path.chmod(0o666)
    (tmp_path / "data").mkdir()
    copy = tmp_path / "data/relay.db.valid.yaml"
    copy.write_bytes(last_good_file.content(path, path.read_bytes()))
    with running(tmp_path) as (log, port):
        # Everybody can change the file; an ordinary user can change the relay's other files, too.
        told = MISTAKES + 1 + (os.geteuid() != 0)
        assert sum(each.endswith(RELEASE) for each in log) == told
        answer = httpx.get(f"http://127.0.0.1:{port}{CALLBACK}", trust_env=False)
        assert answer.status_code == 200
        assert command(tmp_path, "status").stdout.count(RELEASE) == told
        found = json.loads(command(tmp_path, "doctor", "--offline", "--json").stdout)
        assert sum(each["text"].endswith(RELEASE) for each in found) == MISTAKES
    checked = command(tmp_path, "check")
    assert checked.exit_code == 0
    assert checked.stderr.count(RELEASE) == MISTAKES
    path.write_text(MANY + "# changed\n")
    changed = command(tmp_path, "check")
    assert (changed.exit_code, RELEASE in changed.output) == (78, False)
