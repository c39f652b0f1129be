"""Preflight: relay.yaml is tried in a child process, whatever the plugins do there."""

import socket
import subprocess
import sys

import orjson
import pytest

from relay import preflight
from relay.preflight import vet
from relay.server.sockets import Listeners
from relay.units import HostPort

YAML = """
server: {listen: "127.0.0.1:0"}
admin: {listen: "127.0.0.1:0"}
sources: {sumotext: {country: US}}
sinks:
  own: {plugin: own}
"""
OWN = """
import relay

class Own(relay.Sink):
    async def send(self, delivery):
        pass

@relay.hookimpl
def register_sinks(register):
    register("own", Own)
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "relay.yaml"
    path.write_text(YAML)
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "own.py").write_text(OWN)
    return path


def append(path, text):
    with (path.parent / "plugins" / "own.py").open("a") as file:
        file.write(text)


async def test_all_is_right_whatever_a_plugin_prints(path):
    append(path, "\nimport sys\nprint('hello')\nsys.stdout.flush()\n")
    assert await vet(path, Listeners()) == []
    assert "own" not in sys.modules, "nothing of it is loaded here"


async def test_each_mistake_is_named_with_its_line(path):
    path.write_text(YAML.replace("US", "nowhere") + "more: 1\n")
    country, more = await vet(path, Listeners())
    assert country.startswith(f"{path}:4: sources.sumotext.country: ")
    assert more.startswith(f"{path}:7: more: ")


@pytest.mark.parametrize("command", ["check", "run"])
def test_check_refuses_the_store_that_run_refuses(path, command):
    path.write_text(YAML + "store: postgresql://relay:secret@db/relay\n")
    line = [sys.executable, "-m", "relay.cli", command, "--config", str(path)]
    checked = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 78
    assert "PostgreSQL is not supported yet: name a file" in checked.stderr
    assert "secret" not in checked.stdout + checked.stderr


@pytest.mark.parametrize("status", [0, 3])
async def test_a_plugin_that_ends_the_process_ends_the_other_one(path, status):
    append(path, f"\nimport ctypes\nctypes.CDLL(None)._exit({status})\n")
    assert await vet(path, Listeners()) == [
        f"{path}: loading it ended a process with status {status}"
    ]


async def test_a_plugin_that_hangs_is_not_waited_for(path, monkeypatch):
    monkeypatch.setattr(preflight, "PATIENCE", 2.0)
    append(path, "\nimport time\ntime.sleep(600)\n")
    assert await vet(path, Listeners()) == [f"{path}: it took more than 2 seconds to load"]


async def test_a_sink_that_cannot_be_made_is_named(path):
    text = OWN.replace("class Own", "import os\n\nclass Own")
    text = text.replace(
        "    async def", "    def __init__(self, *_):\n        raise OSError('no')\n\n    async def"
    )
    (path.parent / "plugins" / "own.py").write_text(text)
    (problem,) = await vet(path, Listeners())
    assert "sinks.own: the plugin own cannot make it: OSError" in problem


async def test_where_the_program_has_gone_the_reload_is_refused(path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(path.parent / "python"))
    (problem,) = await vet(path, Listeners())
    assert "cannot be tried out" in problem


async def test_an_address_of_another_program_is_named_and_ones_own_is_not(path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = HostPort(*other.getsockname())
        path.write_text(
            YAML.replace('server: {listen: "127.0.0.1:0"}', f"server: {{listen: {address}}}")
        )
        (problem,) = await vet(path, Listeners())
        assert f"cannot listen on {address}" in problem
        mine = Listeners(bound={("public", address): other})
        assert await vet(path, mine) == []


async def test_a_certificate_that_is_none_is_named(path, tmp_path):
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("nonsense")
    path.write_text(YAML.replace("server: {", "server: {tls: {cert: cert.pem, key: key.pem}, "))
    (problem,) = await vet(path, Listeners())
    assert "server.tls" in problem


async def test_a_passed_socket_that_others_reach_wants_guarded_sources(path):
    with socket.create_server(("0.0.0.0", 0)) as passed:
        (problem,) = await vet(path, Listeners(activated={"public": [passed]}))
    assert "sources.sumotext: needs tokens or allow_from" in problem


def test_the_release_before_finds_it_by_its_former_name(path):
    """A relay that is upgraded and then reloaded starts it by the name that its own code has."""
    path.write_text(YAML + "more: 1\n")
    handles = orjson.dumps(Listeners().handles()).decode()
    command = [sys.executable, "-P", "-m", "relay.configuration.vetting", str(path), handles]
    output = subprocess.run(command, capture_output=True, check=True).stdout
    assert len(orjson.loads(output)) == 1
