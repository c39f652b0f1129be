"""The copy of relay.yaml that the relay last started with: where it lies, and what is in it."""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from relay import fsutil
from relay.config.document import Reading
from relay.config.errors import ConfigError
from relay.config.model import POSTGRESQL
from relay.fsutil import json_with_paths, path_from_utf8
from relay.state_directory import DEFAULT_STORE, StateDirectory, last_good_configs

HEAD = "# What the relay last started with. It is read while this file is wrong:"
STORE = re.compile(rb"^store:[ \t]*[\"']?([^\s\"'#]+)", re.MULTILINE)
BOM = b"\xef\xbb\xbf"


def places(path: Path, environ: Mapping[str, str]) -> Iterator[Path]:
    """The copies of this relay.yaml: where it says, else where a store may be."""
    home = path.absolute().parent
    folders = [Path(each) for each in environ.get("STATE_DIRECTORY", "").split(":") if each]
    found = [
        StateDirectory.around(home / path_from_utf8(store)).last_good_config
        for store in _stores(path, environ)
    ]
    for each in [*folders, (home / DEFAULT_STORE).parent]:
        found += sorted(last_good_configs(each), key=_age)
    head = _head(path)
    for place in found:
        with contextlib.suppress(OSError):
            if fsutil.content(place).startswith(head):
                yield place


def content(path: Path, text: bytes) -> bytes:
    """What the copy holds for a relay.yaml of this text."""
    return _head(path) + text.removeprefix(BOM)


def has_run_with(path: Path, environ: Mapping[str, str]) -> bool:
    """Whether the relay last started with relay.yaml as it is now."""
    with contextlib.suppress(OSError):
        expected = content(path, path.read_bytes())
        return any(fsutil.content(place) == expected for place in places(path, environ))
    return False


def _stores(path: Path, environ: Mapping[str, str]) -> Iterator[str]:
    """The place of the store, where a file that may be wrong still tells it."""
    with contextlib.suppress(ConfigError):
        reading = Reading(path, environ, strict=False)
        store = reading.part("store")
        if store is None and (line := STORE.search(reading.text)):  # it is no YAML any more
            store = line[1].decode(errors="replace")
        if isinstance(store, str) and not store.startswith(POSTGRESQL):
            yield store


def _age(place: Path) -> float:
    return -place.lstat().st_mtime


def _head(path: Path) -> bytes:
    """The first lines, which name the file that is meant, on one line whatever it is called."""
    return f"{HEAD}\n# {json_with_paths(os.fspath(path.absolute())).decode()}\n".encode()
