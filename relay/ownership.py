"""Ownership: root acts on the service's files as their owner.

That user may write in the folder, and may be in the hands of an attacker: a link there, followed
with root's rights, would have root overwrite, give away or show a file of its own.
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

LINKS = 40
"""So many links are followed on the way to a file, as the system does."""

ASK = -1
"""No user has this number: to set it changes nothing, and tells which one is set."""


class Owner(NamedTuple):
    """The user whose rights over files are taken, and a group of that user."""

    user: int
    group: int


def owner_of(path: Path) -> Owner | None:
    """Whose the file is, or the folder that it would be made in; None where it is root's.

    A user who may write in a folder can plant links there. So a link counts as what it is, unless
    root made it in a folder of root's, and a file of root's that has another name, too, counts as
    that of the folder's owner. A store is root's only with all that is opened along with it.
    """
    found = _steps(path, LINKS)
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
    return os.geteuid() == 0 and bool(ctypes.CDLL(None).setfsuid(ASK) == 0)


def give_up_root(path: Path) -> None:
    """Be the owner of what is at `path` from now on, for good; where that is root, stay."""
    if os.geteuid() == 0 and (owner := owner_of(path)):
        os.setgroups([])
        os.setresgid(owner.group, owner.group, owner.group)
        os.setresuid(owner.user, owner.user, owner.user)


def give_up_files(owner: Owner) -> None:
    """Have the rights of that owner over all files, but go on as root else.

    This holds for the calling thread and those that it starts, until another program is run.
    """
    system = ctypes.CDLL(None)
    os.setgroups([])
    system.setfsgid(owner.group)
    system.setfsuid(owner.user)


@contextlib.contextmanager
def acting_for(path: Path) -> Iterator[None]:
    """Act as the owner of what is at `path` in the block, and as root again behind it."""
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
    """What stands on the way to a file and in its place, from the top, as far as it is there."""
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
    """Whether nobody else can have put it, or what is opened along with it, where it is."""
    if stat.S_ISDIR(status.st_mode):
        return True
    opened = [StateDirectory.around(path).lock, *database_files(path)]
    found = [status, *(each.lstat() for each in opened if os.path.lexists(each))]
    return all(
        stat.S_ISREG(each.st_mode) and each.st_nlink == 1 and each.st_uid == 0 for each in found
    )


def _owner(status: os.stat_result) -> Owner:
    """Never with the group of root, which a folder may have that root made for the user."""
    if status.st_gid:
        return Owner(status.st_uid, status.st_gid)
    try:
        return Owner(status.st_uid, pwd.getpwuid(status.st_uid).pw_gid)
    except KeyError:
        return Owner(status.st_uid, status.st_uid)


def user_name(number: int) -> str:
    """A user as sudo and chown take it: in a container, not every number has a name."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"#{number}"
