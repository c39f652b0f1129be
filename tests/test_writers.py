"""Who can change what the relay runs: under a system service refused, elsewhere named."""

import os

import pytest
import rooted

from relay.config.loader import load
from relay.config.writers import (
    EVERYBODY,
    User,
    check_writers,
    is_system_service,
    writable,
)
from relay.doctor import security

SERVICE = User(rooted.USER, {rooted.USER})
PLUGIN = """
import relay


class Own(relay.Sink):
    async def send(self, delivery):
        return None


@relay.hookimpl
def register_sinks(register):
    register("own", Own)
"""
PARTS = (
    "relay.yaml",
    ".",
    "plugins",
    "plugins/own.py",
    "plugins/packed",
    "plugins/packed/__init__.py",
)


@pytest.fixture
def config(tmp_path):
    """A configuration with a plugin in a file and one in a folder, which are root's to change."""
    (tmp_path / "relay.yaml").write_text("{}")
    (tmp_path / "plugins/packed").mkdir(parents=True)
    (tmp_path / "plugins/own.py").write_text(PLUGIN)
    (tmp_path / "plugins/packed/__init__.py").write_text(PLUGIN.replace('"own"', '"packed"'))
    for part in PARTS:
        path = tmp_path / part
        path.chmod(0o755 if path.is_dir() else 0o644)
    return load(tmp_path / "relay.yaml", {})


def found(config):
    return {
        (each.path.relative_to(config.folder), each.writer) for each in writable(config, SERVICE)
    }


def told(config, part, writer):
    path = (config.folder / part).resolve()
    return {(path.relative_to(config.folder), writer)}


@pytest.mark.parametrize("part", PARTS)
def test_what_everybody_can_change_is_found(config, part):
    assert found(config) == set()
    path = config.folder / part
    path.chmod(path.stat().st_mode | 0o002)
    assert found(config) == told(config, part, EVERYBODY)


@rooted.needed
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("by", ["owner", "group"])
def test_what_the_service_can_change_is_found(config, part, by):
    path = config.folder / part
    if by == "owner":
        os.chown(path, SERVICE.user, 0)
    else:
        os.chown(path, 0, SERVICE.user)
        assert found(config) == set()
        path.chmod(path.stat().st_mode | 0o020)
    ((place, writer),) = found(config)
    assert (config.folder / place, "own user" in writer) == ((config.folder / part).resolve(), True)


def test_others_replace_no_file_in_a_sticky_folder(config):
    config.folder.chmod(0o1777)
    assert found(config) == set()
    (config.folder / "plugins").chmod(0o1777)
    assert found(config) == told(config, "plugins", EVERYBODY)


SYSTEMD = {"INVOCATION_ID": "1", "SYSTEMD_EXEC_PID": str(os.getpid())}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (SYSTEMD, True),
        (SYSTEMD | {"SYSTEMD_EXEC_PID": str(os.getppid())}, True),  # the trial of a reload
        (SYSTEMD | {"SYSTEMD_EXEC_PID": "1000000000"}, False),  # a CI runner's, say
        (SYSTEMD | {"MANAGERPID": "1"}, False),
        ({"INVOCATION_ID": "1"}, False),
        ({}, False),
    ],
)
def test_the_system_service_is_known_by_what_systemd_says(config, environ, expected):
    assert is_system_service(environ) is expected
    config.path.chmod(0o666)
    found = [each for each in check_writers(config, environ) if "everybody" in each.message]
    assert len(found) == expected


@rooted.needed
def test_the_doctor_names_them_everywhere(config):
    (level,) = {each.level for each in security.exposed(config)}
    assert level == "ok"
    (config.folder / "plugins").chmod(0o777)
    os.chown(config.path, SERVICE.user, 0)
    (config.folder / "data").mkdir()
    os.chown(config.folder / "data", SERVICE.user, SERVICE.user)
    said = {each.level: each.text for each in security.exposed(config)}
    assert said.keys() == {"problem", "warning"}
    assert str(config.folder / "plugins") in said["problem"]
    assert str(config.path) in said["warning"]
