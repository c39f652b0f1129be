"""Trouble: what the system says, turned into an outcome that says what to do."""

import errno
import re
from pathlib import Path

import apsw

import relay

TROUBLE = (OSError, apsw.Error)

NUMBER = re.compile(r"\d{5,}(?=\d{4})")
LONGEST = 400
"""Characters of a path in a message, from both of its ends."""


def outcome(error: BaseException, path: Path) -> relay.Retry | relay.Pause:
    """Retry what may pass, and pause for what somebody must change."""
    where = shown(Path(getattr(error, "filename", None) or path))
    match error:
        case apsw.BusyError():
            return relay.Pause(
                f"{where}: another process or sink writes these files; let only one do it"
            )
        case apsw.CorruptError() | apsw.NotADBError():
            return relay.Pause(f"{where}: is damaged; restore it from a backup, or move it away")
        case apsw.CantOpenError() | apsw.ReadOnlyError() | apsw.PermissionsError():
            return relay.Pause(f"{where}: cannot be written; give it to the relay's user")
        case apsw.FullError():
            return relay.Retry(f"{where}: no space left on the disk; make room")
        case OSError(errno=errno.EACCES | errno.EPERM | errno.EROFS):
            return relay.Pause(f"{where}: {error.strerror}; give it to the relay's user")
        case OSError(errno=errno.ENAMETOOLONG):
            return relay.Pause(f"{where}: the path is too long; shorten options.path")
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return relay.Retry(f"{where}: no space left on the disk; make room")
        case BlockingIOError():
            return relay.Retry(f"{where}: another program has locked the file; close it there")
        case OSError():
            return relay.Retry(f"{where}: {error.strerror or error}")
        case _:
            return relay.Retry(f"{where}: {error}")


def shown(path: Path) -> str:
    """The path, without the whole of a number that a template may have put into it."""
    text = str(path)
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]}…{text[-LONGEST // 2 :]}"
    return NUMBER.sub("…", text)
