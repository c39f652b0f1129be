"""The head of a request as it came, made such as the standard wants it."""

import re

_PLAIN_LINE = re.compile(rb"[A-Z]+ [!\"$-~]+ HTTP/1\.[01]\r\n")
# What may not stand in a request target, and `#`, behind which a parser would see no query.
_UNSAFE = re.compile(rb"[^!\"$-~]")
_UPGRADE = re.compile(rb"(?im)^upgrade(?=:)")
_LATE_VERSION = re.compile(rb" HTTP/1\.[01]\r?\n")


def tidy(head: bytes) -> bytes:
    """The head with its request line as the standard wants it.

    The last ` HTTP/1.` of the first line ends the target, so that it may hold spaces; where that
    line has none, the target holds line breaks, as of a message typed in two lines. `Upgrade` is
    renamed: the relay answers in the protocol that it was asked in, and a malformed one is still
    seen.
    """
    if not _PLAIN_LINE.match(head):
        line, rest = _request_line(head)
        method, _, rest_of_line = line.partition(b" ")
        target, separator, version = rest_of_line.rpartition(b" HTTP/1.")
        if separator:
            target = _UNSAFE.sub(_percent, target.lstrip(b" "))
            head = b"%s %s HTTP/1.%s\r\n%s" % (method, target, version.rstrip(), rest)
    if b"upgrade" in head.lower():
        line, newline, rest = head.partition(b"\n")
        head = line + newline + _UPGRADE.sub(b"x-upgrade", rest)
    return head


def _request_line(head: bytes) -> tuple[bytes, bytes]:
    """The request line, and what follows it."""
    line, _, rest = head.partition(b"\n")
    if b" HTTP/1." not in line and (late := _LATE_VERSION.search(head)):
        return head[: late.end()].rstrip(b"\r\n"), head[late.end() :]
    return line, rest


def split(target: bytes) -> tuple[bytes, bytes]:
    """The path and the query of a request target, which may name scheme and host too."""
    path, _, query = target.partition(b"?")
    if not path.startswith(b"/") and b"://" in path:
        path = b"/" + path.split(b"://", 1)[1].partition(b"/")[2]
    return path, query


def _percent(byte: re.Match[bytes]) -> bytes:
    return b"%%%02X" % byte[0][0]
