"""The parameters of a callback: names and values out of the query and the body, decoded."""

import codecs
import json
import logging
from typing import Any
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from relay.callbacks.callback import Callback

MAX_PARAMETERS = 1_000

# Windows-1252 leaves five bytes undefined. Browsers read them as Latin-1 does, and so do we:
# no byte is lost.
WINDOWS_1252 = "".join(bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in range(256))

# The parser's own log lines quote the body; nobody is to see them.
_silent = logging.getLogger(f"{__name__}.multipart")
_silent.disabled = True

Pairs = list[tuple[str, str]]


class NotUnderstood(Exception):
    """A callback that makes no event. `reason` holds nothing of the contact."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class BrokenBody(NotUnderstood):
    """The body is not what its type says."""


def parameters(callback: Callback) -> Pairs:
    """Every parameter in the order received, those of the query before those of the body.

    A broken body matters only where the query has nothing to offer.
    """
    found = _form(callback.query)
    if callback.body:
        try:
            found += _body(callback.body, callback.content_type)
        except BrokenBody:
            if not found:
                raise
        _check_count(len(found))
    return found


def decode(raw: bytes) -> str:
    """UTF-8 if it is that, else Windows-1252."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return codecs.charmap_decode(raw, "strict", WINDOWS_1252)[0]


def _check_count(count: int) -> None:
    if count > MAX_PARAMETERS:
        raise NotUnderstood(f"more than {MAX_PARAMETERS} parameters")


def _form(raw: bytes) -> Pairs:
    """A query string or an urlencoded form; a name without `=` gets an empty value."""
    # Latin-1 carries any byte, and text splits faster.
    pieces = [piece for piece in raw.decode("latin-1").split("&") if piece]
    _check_count(len(pieces))
    split = [piece.partition("=") for piece in pieces]
    if raw.isascii() and b"%" not in raw and b"+" not in raw:
        return [(name, value) for name, _, value in split]
    return [(_unquote(name), _unquote(value)) for name, _, value in split]


def _unquote(text: str) -> str:
    """Percent-decoding that leaves a `%` alone where no two hexadecimal digits follow."""
    raw = text.replace("+", " ").encode("latin-1")
    return decode(unquote_to_bytes(raw) if b"%" in raw else raw)


def _body(body: bytes, content_type: str) -> Pairs:
    media = content_type.partition(";")[0].strip().lower()
    if media.startswith("multipart/"):
        return _multipart(body, content_type)
    if media.endswith("json"):
        return _json(body)
    if body.lstrip().startswith(b"{"):
        # JSON under a wrong type, as `curl --data` sends it.
        try:
            return _json(body)
        except BrokenBody:
            pass
    if media != "application/x-www-form-urlencoded" and b"=" not in body:
        raise BrokenBody("the body has no parameters")
    return _form(body)


def _json(body: bytes) -> Pairs:
    """An object of scalars and lists. Numbers stay as they were written."""
    try:
        members = json.loads(
            decode(body).removeprefix("\ufeff"),
            parse_int=str,
            parse_float=str,
            parse_constant=str,
            object_pairs_hook=_Members,
        )
        if not isinstance(members, _Members):
            raise BrokenBody("the JSON body is not an object")
        return [
            (_well_formed(name), _well_formed(_scalar(item)))
            for name, value in members
            for item in (value if type(value) is list else [value])
        ]
    except (ValueError, RecursionError):
        raise BrokenBody("the body is not valid JSON") from None


class _Members(list[tuple[str, Any]]):
    """A JSON object with its repeated names."""


def _scalar(value: Any) -> str:
    match value:
        case str():
            return value
        case None:
            return ""
        case True:
            return "true"
        case False:
            return "false"
        case _:
            return json.dumps(_plain(value), ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, _Members):
        return {name: _plain(item) for name, item in value}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _well_formed(text: str) -> str:
    """Half of a surrogate pair, which JSON can spell, fits no store: it becomes U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _multipart(body: bytes, content_type: str) -> Pairs:
    """The parts that have a name; of a file, its content."""
    parts = _Parts()
    _, options = parse_options_header(content_type)
    try:
        parser = MultipartParser(options.get(b"boundary", b""), parts.callbacks())
        parser.logger = _silent
        parser.write(body)
    except FormParserError:
        raise BrokenBody("the multipart body is broken") from None
    if not parts.ended:
        raise BrokenBody("the multipart body is broken or cut short")
    return parts.found


class _Parts:
    """Collects what the parser finds."""

    def __init__(self) -> None:
        self.found: Pairs = []
        self.ended = False
        self._header = bytearray()
        self._value = bytearray()
        self._data = bytearray()
        self._name: bytes | None = None

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_part_data": lambda data, start, end: self._data.extend(data[start:end]),
            "on_part_end": self._end,
            "on_end": self._ended,
        }

    def _begin(self) -> None:
        self._name = None
        self._data.clear()

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            self._name = options.get(b"name")
        self._header.clear()
        self._value.clear()

    def _end(self) -> None:
        if self._name is not None:
            self.found.append((decode(self._name), decode(bytes(self._data))))

    def _ended(self) -> None:
        self.ended = True
