"""The state directory: its names stay over releases, and no other module makes them."""

import ast
from pathlib import Path

import pytest

from relay.config import loader
from relay.state_directory import (
    StateDirectory,
    database_files,
    free_damaged_spill,
    last_good_configs,
)

NAMES = {
    "store": "relay.db",
    "lock": "relay.db.lock",
    "spill": "relay.db.spill",
    "rejected_lines": "relay.db.spill.bad",
    "ballast": "relay.db.ballast",
    "crash_log": "relay.db.crash",
    "alerts": "relay.db.alerts",
    "last_good_config": "relay.db.valid.yaml",
    "control_socket": "relay.db.sock",
}
"""What releases have called them so far: an upgrade and a way back must find them."""

ENDS = (
    *("-wal", "-shm", "-journal", ".lock", ".spill", ".bad", ".damaged", ".ballast", ".crash"),
    *(".alerts", ".valid.yaml", ".sock", ".before-schema-", ".replaced-"),
)
"""What follows the name of the store, or of the spill, in each of them."""


LOGGERS = {"relay.alerts", "relay.ballast", "relay.spill"}
"""Names of loggers, which end like a file's."""


@pytest.mark.parametrize("part", NAMES)
def test_the_names_are_those_of_earlier_releases(part):
    state = StateDirectory.around(Path("/state/relay.db"))
    assert getattr(state, part) == Path("/state", NAMES[part])


def test_what_an_earlier_release_has_left_is_found(tmp_path):
    """By the names that are in the folder of a relay that was stopped, or died."""
    left = [
        "relay.db.before-schema-4",
        "relay.db.replaced-20260102T030405Z",
        "relay.db.spill.damaged",
        "relay.db.spill.damaged-2",
        "relay.db.valid.yaml",
        "other.db.valid.yaml",
    ]
    for name in left:
        (tmp_path / name).touch()
    state = StateDirectory.around(tmp_path / "relay.db")
    assert [each.name for each in state.store_copies()] == left[:2]
    assert [each.name for each in state.damaged_spills()] == left[2:4]
    assert sorted(each.name for each in last_good_configs(tmp_path)) == sorted(left[4:])
    assert free_damaged_spill(state.spill) == tmp_path / "relay.db.spill.damaged-3"
    assert state.before_schema(4) == tmp_path / left[0]
    assert state.replaced_at(1767323045) == tmp_path / left[1]


def test_sqlites_own_files_stand_beside_each_database():
    assert [each.name for each in database_files(Path("copy.db"))] == [
        "copy.db",
        "copy.db-wal",
        "copy.db-shm",
        "copy.db-journal",
    ]


@pytest.mark.parametrize(
    ("text", "folder", "spill"),
    [
        ("", "data", "data/relay.db.spill"),
        ("store: data/relay.db", "data", "data/relay.db.spill"),
        ("store: kept/other.db", "kept", "kept/other.db.spill"),
        ("store_fallback: far/away", "data", "far/away"),
        ("store: postgresql://relay@db.example/relay", "data", "data/relay.db.spill"),
    ],
)
def test_it_is_found_from_relay_yaml(tmp_path, text, folder, spill):
    """A store that is no file has its state where that of the default store is."""
    path = tmp_path / "relay.yaml"
    path.write_text(f"{text}\nsources: {{sumotext: {{}}}}\nsinks: {{}}\n")
    state = loader.load(path, {}).state
    assert state.folder == tmp_path / folder
    assert state.spill == tmp_path / spill
    assert state.rejected_lines == tmp_path / f"{spill}.bad"
    assert state.lock.parent == state.folder


def test_a_spill_elsewhere_has_its_own_files_beside_it():
    state = StateDirectory.around(Path("/state/relay.db"), Path("/far/away"))
    assert state.rejected_lines == Path("/far/away.bad")
    assert state.ballast == Path("/state/relay.db.ballast")


def test_no_other_module_makes_such_a_name(root):
    found = {
        (path.relative_to(root).as_posix(), text)
        for path in sorted((root / "relay").rglob("*.py"))
        if path.name != "state_directory.py" and "builtin" not in path.parts
        for text in texts(ast.parse(path.read_text(encoding="utf-8")))
        if text.endswith(ENDS) and " " not in text and text not in LOGGERS
    }
    assert not found


def texts(tree):
    """The texts in the code, and the pieces of those that are put together."""
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
