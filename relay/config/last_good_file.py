"""The file of the last valid configuration: a copy of relay.yaml beside the store."""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from relay import fsutil
from relay.config.document import Document
from relay.config.errors import ConfigError
from relay.config.model import POSTGRESQL
from relay.fsutil import json_with_paths, path_from_utf8
from relay.state_directory import DEFAULT_STORE, StateDirectory, last_good_configs

HEAD = "# What the relay last started with. It is read while this file is wrong:"
STORE = re.compile(rb"^store:[ \t]*[\"']?([^\s\"'#]+)", re.MULTILINE)
BOM = b"\xef\xbb\xbf"


def places(path: Path, environ: Mapping[str, str]) -> Iterator[Path]:
    """The copies of this relay.yaml: beside its store, else in the state directories."""
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
    """The content of the copy for a relay.yaml of this text."""
    return _head(path) + text.removeprefix(BOM)


def has_run_with(path: Path, environ: Mapping[str, str]) -> bool:
    """Whether the relay last started with relay.yaml as it is now."""
    with contextlib.suppress(OSError):
        expected = content(path, path.read_bytes())
        return any(fsutil.content(place) == expected for place in places(path, environ))
    return False


def _stores(path: Path, environ: Mapping[str, str]) -> Iterator[str]:
    """The value of `store`, if it can be found in a file that may be wrong."""
    with contextlib.suppress(ConfigError):
        document = Document(path, environ, strict=False)
        store = document.part("store")
        if store is None and (line := STORE.search(document.text)):  # the file is not YAML
            store = line[1].decode(errors="replace")
        if isinstance(store, str) and not store.startswith(POSTGRESQL):
            yield store


def _age(place: Path) -> float:
    return -place.lstat().st_mtime


def _head(path: Path) -> bytes:
    """The first lines, with the path of relay.yaml, encoded so that it takes one line."""
    return f"{HEAD}\n# {json_with_paths(os.fspath(path.absolute())).decode()}\n".encode()
