"""Codings of a body: Content-Encoding is undone, and UTF-16 becomes UTF-8."""

import codecs
import re
import zlib

from relay.event import InvalidCallback

MAX_UNPACKED = 256 * 1024
"""Bytes; a body that is not packed may have no more."""
MAX_CODINGS = 3
MAX_MEMBERS = 16
"""Gzip allows any number of members one after the other, also of empty ones."""

GZIP_MAGIC = b"\x1f\x8b\x08"
GZIP, ZLIB, RAW = 31, 15, -15
"""How zlib is told what to expect."""

# The names that the WHATWG's Encoding standard gives them, without marks. Python is never asked
# for a name that a sender made up: it would remember each of them.
_WIDE = {
    **dict.fromkeys(("utf16", "utf16le", "ucs2", "iso10646ucs2", "unicode"), "utf-16-le"),
    **dict.fromkeys(("utf16be", "unicodefffe"), "utf-16-be"),
    **dict.fromkeys(("utf32", "utf32le", "ucs4"), "utf-32-le"),
    "utf32be": "utf-32-be",
}
_NARROW = {
    **{f"windows{number}": f"cp{number}" for number in (1250, 1251, *range(1253, 1259), 874)},
    **{f"iso8859{part}": f"iso8859_{part}" for part in (*range(2, 12), *range(13, 17))},
    **dict.fromkeys(("shiftjis", "sjis", "windows31j"), "cp932"),
    **dict.fromkeys(("gbk", "gb2312", "gb18030"), "gb18030"),
    **dict.fromkeys(("euckr", "ksc56011987"), "cp949"),
    "big5": "big5hkscs",
    "eucjp": "euc_jp",
    "koi8r": "koi8_r",
    "koi8u": "koi8_u",
    "macintosh": "mac_roman",
}
_MARKS = (  # the longer ones first: that of UTF-32 begins as that of UTF-16 does
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CHARSET = re.compile(r"charset\s{0,9}=\s{0,9}[\"']?([\w.:-]{1,40})", re.ASCII | re.IGNORECASE)

_NO_UTF8 = re.compile("[\\udc80-\\udcff]")
"""What `surrogateescape` makes of bytes that are no UTF-8."""

# Windows-1252 leaves five bytes undefined. Browsers read them as Latin-1 does, and so do we:
# no byte is lost.
WINDOWS_1252 = "".join(bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in range(256))


class BrokenBody(InvalidCallback):
    """The body is not what its headers say."""


def decode(raw: bytes, charset: str | None = None) -> str:
    """By the charset, one of those that `charset_of` gives; else UTF-8, else Windows-1252.

    Raises BrokenBody where the bytes are not in that charset.
    """
    if charset is not None:
        try:
            return raw.decode(charset)
        except UnicodeDecodeError:
            raise BrokenBody("the body is not in its charset") from None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return codecs.charmap_decode(raw, "strict", WINDOWS_1252)[0]


def decode_each(raw: bytes, between: str, charset: str | None = None) -> list[str]:
    """Each piece as `decode` does it, in a fraction of its time where there are thousands."""
    if charset is not None:
        return decode(raw, charset).split(between)
    whole = raw.decode("utf-8", "surrogateescape")
    as_utf8 = whole.split(between)
    if not _NO_UTF8.search(whole):
        return as_utf8
    narrow = codecs.charmap_decode(raw, "strict", WINDOWS_1252)[0].split(between)
    if len(whole) == len(raw):  # no two bytes make one character: nothing is UTF-8 beyond ASCII
        return narrow
    pairs = zip(as_utf8, narrow, strict=True)
    broken = _NO_UTF8.search
    return [other if broken(utf8) else utf8 for utf8, other in pairs]


def charset_of(content_type: str) -> str | None:
    """The charset of a Content-Type; None for the usual ones, and for a name that says nothing.

    UTF-8, Latin-1 and Windows-1252 are mixed up so often that the bytes are a better witness.
    """
    return _NARROW.get(_label(content_type))


def as_utf8(body: bytes, content_type: str) -> bytes:
    """The body without a byte order mark, and in UTF-8 where it was in UTF-16 or UTF-32."""
    body = body.removeprefix(codecs.BOM_UTF8)
    for mark, codec in _MARKS:
        if body.startswith(mark):
            return _narrowed(body.removeprefix(mark), codec)
    if b"\0" not in body[:4]:  # names and brackets are ASCII, whatever the header says
        return body
    declared = _WIDE.get(_label(content_type))
    if declared is None:
        return _guessed(body, "utf-16-be" if body[0] == 0 else "utf-16-le")
    if declared == "utf-16-le" and body[0] == 0:  # "utf-16" is either
        declared = "utf-16-be"
    return _narrowed(body, declared)


def unpacked(body: bytes, encoding: str) -> bytes:
    """The body as it was before the codings of its Content-Encoding.

    Raises BrokenBody for one that is not known, that fails, or that makes too much of it.
    """
    codings = [each.strip().lower() for each in encoding.split(",")]
    codings = [each for each in codings if each not in ("", "identity")]
    if len(codings) > MAX_CODINGS:
        raise BrokenBody(f"the body has more than {MAX_CODINGS} content codings")
    if not codings and body.startswith(GZIP_MAGIC):
        codings = ["gzip"]
    for coding in reversed(codings):
        body = _undone(body, coding)
    return body


def unpacked_size(body: bytes, encoding: str) -> int:
    """Bytes that are to be read of a body; none but itself of one that cannot be unpacked."""
    try:
        return max(len(body), len(unpacked(body, encoding))) if body else 0
    except BrokenBody:
        return len(body)


def _undone(body: bytes, coding: str) -> bytes:
    try:
        match coding:
            case "gzip" | "x-gzip":
                return _gunzipped(body)
            case "deflate":
                return _inflated(body)
    except zlib.error:
        raise BrokenBody(f"the body is no {coding}") from None
    raise BrokenBody("the Content-Encoding is neither gzip nor deflate")


def _gunzipped(body: bytes) -> bytes:
    found = b""
    for _ in range(MAX_MEMBERS):
        part, body = _inflated_once(body, GZIP, MAX_UNPACKED - len(found))
        found += part
        if not body.strip(b"\0"):  # some writers fill up a block
            return found
    raise BrokenBody(f"the gzipped body has more than {MAX_MEMBERS} members")


def _inflated(body: bytes) -> bytes:
    """Deflate is said to have a zlib header, and often has none."""
    try:
        found, rest = _inflated_once(body, ZLIB, MAX_UNPACKED)
    except zlib.error:
        found, rest = _inflated_once(body, RAW, MAX_UNPACKED)
    if rest:
        raise BrokenBody("something follows the packed body")
    return found


def _inflated_once(body: bytes, header: int, limit: int) -> tuple[bytes, bytes]:
    """What was packed, of `limit` bytes at most, and what follows it."""
    inflater = zlib.decompressobj(header)
    found = inflater.decompress(body, limit + 1)
    if len(found) > limit:
        raise BrokenBody(f"the unpacked body has more than {MAX_UNPACKED} bytes")
    if not inflater.eof:
        raise BrokenBody("the packed body is cut short")
    return found, inflater.unused_data


def _label(content_type: str) -> str:
    found = _CHARSET.search(content_type)
    return re.sub(r"[^a-z0-9]|^x(?=-)", "", found[1].lower()) if found else ""


def _guessed(body: bytes, codec: str) -> bytes:
    """As `_narrowed`; the body itself where it is something else."""
    try:
        return _narrowed(body, codec)
    except BrokenBody:
        return body


def _narrowed(body: bytes, codec: str) -> bytes:
    try:
        return body.decode(codec).encode()
    except UnicodeError:
        raise BrokenBody("the body is no UTF-16") from None
