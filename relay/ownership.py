"""Ownership: root acts on the service's files as their owner.

That user may write in the folder, and may be controlled by an attacker. If root followed a link
there with its own rights, it could overwrite, give away or show one of root's files.
"""

import contextlib
import ctypes
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from relay.state_directory import StateDirectory, database_files

MOST_LINKS = 40
"""The most links that are followed on the way to a file; the system's limit is the same."""

NO_USER = -1
"""No user has this number. To set it changes nothing, and returns the number that is set."""


class Owner(NamedTuple):
    """A user and one of its groups, which root takes for access to files."""

    user: int
    group: int


def owner_of(path: Path) -> Owner | None:
    """The owner of the file, or of the folder in which it would be made; None for root.

    A user who may write in a folder can plant links there. So a link itself is judged, and not its
    target, unless root made it in one of root's folders. One of root's files that has another name,
    too, counts as the folder owner's. A store is root's only if all files opened with it are.
    """
    found = _steps(path, MOST_LINKS)
    last = found[-1]
    others = [each for each in found if each.st_uid]
    if not others:
        return None
    if last.st_uid == 0:
        return None if _is_roots(path, last) else _owner(others[-1])
    planted = stat.S_ISREG(last.st_mode) and last.st_nlink > 1
    return _owner(found[-2] if planted and found[-2].st_uid else last)


def is_root() -> bool:
    """Whether this thread has root's rights over files."""
    return os.geteuid() == 0 and bool(ctypes.CDLL(None).setfsuid(NO_USER) == 0)


def give_up_root(path: Path) -> None:
    """Become the owner of what is at `path` for good, unless that is root."""
    if os.geteuid() == 0 and (owner := owner_of(path)):
        os.setgroups([])
        os.setresgid(owner.group, owner.group, owner.group)
        os.setresuid(owner.user, owner.user, owner.user)


def give_up_files(owner: Owner) -> None:
    """Take that owner's rights over files, and keep root's other rights.

    This applies to the calling thread and the threads that it starts, until an exec.
    """
    system = ctypes.CDLL(None)
    os.setgroups([])
    system.setfsgid(owner.group)
    system.setfsuid(owner.user)


@contextlib.contextmanager
def acting_for(path: Path) -> Iterator[None]:
    """Act as the owner of what is at `path` during the block, and as root again after it."""
    if os.geteuid() != 0 or (owner := owner_of(path)) is None:
        yield
        return
    groups, group = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(owner.group)
    os.seteuid(owner.user)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def _steps(path: Path, links: int) -> list[os.stat_result]:
    """The status of each folder above a file, and of the file, as far as they exist."""
    found: list[os.stat_result] = []
    path = path.absolute()
    for each in (*reversed(path.parents), path):
        try:
            status = each.lstat()
        except OSError:
            break
        is_link = stat.S_ISLNK(status.st_mode)
        if is_link and links and not any(step.st_uid for step in (*found, status)):
            return _steps(each.parent / each.readlink() / path.relative_to(each), links - 1)
        found.append(status)
        if is_link:
            break
    return found


def _is_roots(path: Path, status: os.stat_result) -> bool:
    """Whether only root can have placed the file, and all files that are opened with it."""
    if stat.S_ISDIR(status.st_mode):
        return True
    opened = [StateDirectory.around(path).lock, *database_files(path)]
    found = [status, *(each.lstat() for each in opened if os.path.lexists(each))]
    return all(
        stat.S_ISREG(each.st_mode) and each.st_nlink == 1 and each.st_uid == 0 for each in found
    )


def _owner(status: os.stat_result) -> Owner:
    """The owner; never with root's group, which a folder may have that root made for the user."""
    if status.st_gid:
        return Owner(status.st_uid, status.st_gid)
    try:
        return Owner(status.st_uid, pwd.getpwuid(status.st_uid).pw_gid)
    except KeyError:
        return Owner(status.st_uid, status.st_uid)


def user_name(number: int) -> str:
    """The user's name, or `#` and the number: in a container, not every number has a name."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"#{number}"
