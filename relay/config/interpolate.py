"""Interpolation of `${…}` in the text values of relay.yaml, after it has been parsed.

`${NAME}` and `${NAME:-default}` come from the environment, `${file:PATH}` from a file and
`${credential:NAME}` from systemd's credentials directory. `$${NAME}` stays `${NAME}`, and
`${{ … }}` is a dollar sign before a template.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relay.config.errors import Issue
from relay.fsutil import path_from_utf8
from relay.validation import PLACEHOLDER, Location

VARIABLE = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?", re.DOTALL)
CREDENTIAL = re.compile(r"(?!\.\.?$)[A-Za-z0-9_.-]+")
OF_FOLDER = "relay_"
"""What systemd puts before the name of a credential from the folder that our unit names."""
FORMS = "${NAME}, ${NAME:-default}, ${file:PATH} or ${credential:NAME}"


@dataclass(slots=True)
class Filled:
    """Interpolated values.

    `secrets` are the texts filled in at each location, which no message may show. Each issue is a
    placeholder without a value, which stays in the text.
    """

    value: Any = None
    secrets: dict[Location, list[str]] = field(default_factory=dict)
    issues: list[Issue] = field(default_factory=list)


def fill(value: Any, environ: Mapping[str, str], folder: Path) -> Filled:
    """Fill in all placeholders. One without a value stays, with an issue."""
    result = Filled()
    result.value = _Filler(environ, folder, result).walk(value, ())
    return result


class _Unset(Exception):
    """A placeholder without a value; the message is the reason."""


class _Filler:
    def __init__(self, environ: Mapping[str, str], folder: Path, result: Filled) -> None:
        self.environ = environ
        self.folder = folder
        self.result = result

    def walk(self, value: Any, location: Location) -> Any:
        if isinstance(value, dict):
            return {key: self.walk(item, (*location, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.walk(item, (*location, i)) for i, item in enumerate(value)]
        if isinstance(value, str) and "${" in value:
            return PLACEHOLDER.sub(lambda match: self._replace(match, location), value)
        return value

    def _replace(self, match: re.Match[str], location: Location) -> str:
        if match["escaped"]:
            return match[0][1:]
        try:
            text = self._look_up(match["inner"])
        except _Unset as error:
            self.result.issues.append(Issue(location, f"{match[0]} {error}"))
            return match[0]
        if not match["inner"].endswith(f":-{text}"):  # a default is in the file anyway
            self.result.secrets.setdefault(location, []).append(text)
        return text

    def _look_up(self, inner: str) -> str:
        kind, colon, rest = inner.partition(":")
        if colon and kind == "file":
            return _content(self.folder / path_from_utf8(rest))
        if colon and kind == "credential":
            return self._credential(rest)
        if variable := VARIABLE.fullmatch(inner):
            return self._variable(variable["name"], variable["default"])
        raise _Unset(f"is none of {FORMS}")

    def _variable(self, name: str, default: str | None) -> str:
        value = self.environ.get(name)
        if default is not None:
            return value or default
        if value is None:
            raise _Unset("is not set in the environment")
        return value

    def _credential(self, name: str) -> str:
        directory = self.environ.get("CREDENTIALS_DIRECTORY")
        if not CREDENTIAL.fullmatch(name):
            raise _Unset("is not the name of a credential")
        if not directory:
            raise _Unset("cannot be read: systemd has set no $CREDENTIALS_DIRECTORY here")
        places = [Path(directory, each) for each in (name, OF_FOLDER + name)]
        return _content(next(filter(os.path.exists, places), places[0]))


def _content(path: Path) -> str:
    """The file's text without a BOM and a final line break, which editors add."""
    try:
        return path.read_text("utf-8-sig").rstrip("\r\n")
    except OSError as error:
        raise _Unset(f"cannot be read: {error.strerror}") from None
    except ValueError:
        raise _Unset("cannot be read: it is not UTF-8 text") from None
