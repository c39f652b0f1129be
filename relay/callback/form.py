"""The parameters of a callback: names and values out of the query and the body, decoded."""

import json
import logging
import re
import secrets
from collections.abc import Sequence
from json.encoder import encode_basestring
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from relay.callback.coding import BrokenBody, as_utf8, charset_of, decode, decode_each, unpacked
from relay.event import InvalidCallback, RawCallback

MAX_PARAMETERS = 1_000
MAX_CONTAINERS = 5_000
"""Objects and lists of a JSON body: each takes the time of a hundred characters. Brackets within
texts are counted along with them.
"""
PLAIN = (b"7bit", b"8bit", b"binary", b"identity")
"""Encodings of a part that are none."""

_SEPARATORS = re.compile(r"[\s_-]+")

# `%u20AC`, as JavaScript's escape() and ASP write it; characters above U+FFFF are pairs of them.
_ESCAPES = re.compile(
    "((?:%u[dD][89abAB][0-9a-fA-F]{2}%u[dD][c-fC-F][0-9a-fA-F]{2}|%u(?![dD][89a-fA-F])[0-9a-fA-F]{4})+)"
)
ESCAPE = len("%u20AC")
# Stands for the escapes while what is around them is decoded all at once: thousands of pieces would
# take long. No sender knows it, and no character of any charset takes up its first or last byte.
_BETWEEN = f"\n{secrets.token_hex(16)}\n"
_PERCENT = re.compile(rb"%([0-9a-fA-F]{2})")
_BYTES = {
    f"{high}{low}".encode(): bytes.fromhex(high + low)
    for high in "0123456789abcdefABCDEF"
    for low in "0123456789abcdefABCDEF"
}
# No browser leaves these bytes as they are in a form.
_LOOKS_LIKE_JSON = re.compile(rb"\s*(?:\{\s*[\"'}]|\[\s*[\"'{\]])")

# The parser's own log lines quote the body; nobody is to see them.
_silent = logging.getLogger(f"{__name__}.multipart")
_silent.disabled = True

Pairs = list[tuple[str, str]]


class _NoParameters(BrokenBody):
    """The body is of no type that has parameters."""


def parameters(callback: RawCallback) -> Pairs:
    """Every parameter in the order received, those of the query before those of the body.

    A body without parameters matters only where the query has none either. One that should have
    some and cannot be read always matters: it may hold what the contact said.
    """
    found = _form(callback.query)
    if callback.body:
        body = as_utf8(unpacked(callback.body, callback.encoding), callback.content_type)
        try:
            found += _body(body, callback.content_type)
        except _NoParameters:
            if not found:
                raise
        _check_count(len(found))
    return found


def readable_body(callback: RawCallback) -> bytes:
    """The body unpacked and in UTF-8. Raises InvalidCallback."""
    if not callback.body:
        return b""
    return as_utf8(unpacked(callback.body, callback.encoding), callback.content_type)


def json_value(callback: RawCallback) -> Any:
    """What a JSON body says, as Python has it. Raises InvalidCallback."""
    text = decode(readable_body(callback), charset_of(callback.content_type))
    if text.count("[") + text.count("{") > MAX_CONTAINERS:
        raise InvalidCallback(f"more than {MAX_CONTAINERS} objects and lists in the JSON body")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise BrokenBody("the body is not valid JSON") from None


def _check_count(count: int) -> None:
    if count > MAX_PARAMETERS:
        raise InvalidCallback(f"more than {MAX_PARAMETERS} parameters")


def _form(raw: bytes, charset: str | None = None) -> Pairs:
    """A query string or an urlencoded form; a name without `=` gets an empty value."""
    # Latin-1 carries any byte, and text splits faster.
    pieces = [piece for piece in raw.decode("latin-1").split("&") if piece]
    _check_count(len(pieces))
    split = [piece.partition("=") for piece in pieces]
    if raw.isascii() and b"%" not in raw and b"+" not in raw:
        return [(name, value) for name, _, value in split]
    return [(_unquote(name, charset), _unquote(value, charset)) for name, _, value in split]


def _unquote(text: str, charset: str | None) -> str:
    """Percent-decoding that leaves a `%` alone where no hexadecimal digits follow."""
    text = text.replace("+", " ")
    if "%u" not in text:
        return _unquote_bytes(text, charset)
    pieces = _ESCAPES.split(text)
    if not _is_literal("".join(pieces[::2])):
        raw = _percent_decoded(_BETWEEN.join(pieces[::2]).encode("latin-1"))
        pieces[::2] = decode_each(raw, _BETWEEN, charset)
    pieces[1::2] = _unescaped(pieces[1::2])
    return "".join(pieces)


def _is_literal(text: str) -> bool:
    return "%" not in text and text.isascii()


def _unescaped(runs: Sequence[str]) -> list[str]:
    """The text of each run of escapes. Those of one escape, one character each, go together."""
    joined = "".join(runs)
    if len(joined) == ESCAPE * len(runs):
        return list(_decoded(joined))
    single = iter(_decoded("".join([run for run in runs if len(run) == ESCAPE])))
    return [next(single) if len(run) == ESCAPE else _decoded(run) for run in runs]


def _decoded(escapes: str) -> str:
    return bytes.fromhex(escapes.replace("%u", "")).decode("utf-16-be")


def _unquote_bytes(text: str, charset: str | None) -> str:
    if _is_literal(text):
        return text
    raw = text.encode("latin-1")
    return decode(_percent_decoded(raw) if b"%" in raw else raw, charset)


def _percent_decoded(raw: bytes) -> bytes:
    """As `urllib.parse.unquote_to_bytes`, which takes long over `%` that encode nothing."""
    pieces = _PERCENT.split(raw)
    pieces[1::2] = [_BYTES[digits] for digits in pieces[1::2]]
    return b"".join(pieces)


def _body(body: bytes, content_type: str) -> Pairs:
    # Where a header came twice, or lists types, the first one counts.
    media = re.split("[;,]", content_type, maxsplit=1)[0].strip().lower()
    if media.startswith("multipart/"):
        return _multipart(body, content_type)
    charset = charset_of(content_type)
    # JSON under a wrong type, as `curl --data` sends it.
    if media.endswith("json") or _LOOKS_LIKE_JSON.match(body):
        return _json(body, charset)
    if media != "application/x-www-form-urlencoded" and b"=" not in body:
        raise _NoParameters("the body has no parameters")
    return _without_mark(_form(body, charset))


def _without_mark(pairs: Pairs) -> Pairs:
    """Without a byte order mark that was percent-encoded."""
    if pairs and pairs[0][0].startswith("\ufeff"):
        pairs[0] = (pairs[0][0].removeprefix("\ufeff"), pairs[0][1])
    return pairs


def _json(body: bytes, charset: str | None) -> Pairs:
    """An object of scalars and lists. Numbers stay as they were written."""
    text = decode(body, charset).strip()
    if text in ("", "null"):
        return []
    if text.count("[") + text.count("{") > MAX_CONTAINERS:
        raise InvalidCallback(f"more than {MAX_CONTAINERS} objects and lists in the JSON body")
    try:
        members = json.loads(
            text,
            # As it was written: 1.50, 1e400 and NaN would not survive a float. As bytes, to be
            # told from a text: a class for numbers would take seven times as long.
            parse_int=str.encode,
            parse_float=str.encode,
            parse_constant=str.encode,
            object_pairs_hook=_Members,
        )
        if not isinstance(members, _Members):
            raise BrokenBody("the JSON body is not an object")
        _check_count(sum(len(value) if type(value) is list else 1 for _, value in members))
        return [
            (_well_formed(name), _well_formed(_scalar(item)))
            for name, value in members
            for item in (value if type(value) is list else [value])
        ]
    except (json.JSONDecodeError, RecursionError):
        raise BrokenBody("the body is not valid JSON") from None


class _Members(list[tuple[str, Any]]):
    """A JSON object with its repeated names."""


def _scalar(value: Any) -> str:
    match value:
        case str():
            return value
        case bytes():
            return value.decode()
        case None:
            return ""
        case True:
            return "true"
        case False:
            return "false"
        case _:
            return _nested(value)


def _nested(value: Any) -> str:
    """The value as JSON, with its types, and with each of several equal names."""
    kind = type(value)  # a body may hold a hundred thousand of them: `match` takes twice as long
    if kind is bytes:
        return str(value, "ascii")
    if kind is str:
        return encode_basestring(value)
    if kind is list:
        return f"[{', '.join([_nested(item) for item in value])}]"
    if kind is _Members:
        members = [f"{encode_basestring(name)}: {_nested(item)}" for name, item in value]
        return f"{{{', '.join(members)}}}"
    return _LITERALS[value]


_LITERALS = {None: "null", True: "true", False: "false"}


def _well_formed(text: str) -> str:
    """Half of a surrogate pair, which JSON can spell, fits no store: it becomes U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _multipart(body: bytes, content_type: str) -> Pairs:
    """The parts that have a name; of a file, its content."""
    parts = _Parts(charset_of(content_type))
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
    """Collects what the parser finds. `charset` is that of parts that name none."""

    def __init__(self, charset: str | None) -> None:
        self._charset = charset
        self.found: Pairs = []
        self.ended = False
        self._begun = 0
        self._header = bytearray()
        self._value = bytearray()
        self._data = bytearray()
        self._name: bytes | None = None
        self._content_type = ""

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
        self._begun += 1
        _check_count(self._begun)
        self._name, self._content_type = None, ""
        self._data.clear()

    def _header_end(self) -> None:
        match bytes(self._header.lower()):
            case b"content-disposition":
                _, options = parse_options_header(bytes(self._value))
                self._name = options.get(b"name")
            case b"content-type":
                self._content_type = self._value.decode("latin-1")
            case b"content-transfer-encoding" | b"content-encoding" if self._is_encoded():
                raise BrokenBody("a part of the multipart body is encoded")
        self._header.clear()
        self._value.clear()

    def _end(self) -> None:
        if self._name is not None:
            charset = charset_of(self._content_type) or self._charset
            value = as_utf8(bytes(self._data), self._content_type)
            self.found.append((decode(self._name, charset), decode(value, charset)))

    def _is_encoded(self) -> bool:
        return bytes(self._value.strip().lower()) not in PLAIN

    def _ended(self) -> None:
        self.ended = True


def fold(name: str) -> str:
    """A parameter's name as it is compared."""
    return _SEPARATORS.sub("", name).lower()
