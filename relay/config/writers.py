"""Write access to relay.yaml and the plugins: only root and the operators should have it.

Code that an attacker runs in the service could otherwise persist there, and root's commands would
run it too, as they load the plugins.
"""

import os
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from relay.config.errors import LocatedIssue
from relay.config.loader import Config
from relay.ownership import user_name
from relay.validation import REFUSED_FROM

EVERYBODY = "everybody"


@dataclass(frozen=True, slots=True)
class User:
    """A user of this machine by number, with the numbers of the groups."""

    user: int
    groups: Collection[int]

    @classmethod
    def own(cls) -> Self:
        """The user of this process."""
        return cls(os.geteuid(), {os.getegid(), *os.getgroups()})

    @classmethod
    def owner(cls, path: Path) -> Self:
        """The owner of a file."""
        found = path.stat()
        return cls(found.st_uid, {found.st_gid})


@dataclass(frozen=True, slots=True)
class Writable:
    """A path, the user with write access, and the command that takes it away."""

    path: Path
    writer: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.writer} can change {self.path}, which says what the relay runs"


def writable(config: Config, service: User) -> list[Writable]:
    """What everybody or the service can change: relay.yaml, the plugins, their folders."""
    paths = dict.fromkeys(path.resolve() for path in _parts(config) if path.exists())
    return [found for path in paths if (found := _judged(path, service))]


def check_writers(config: Config, environ: Mapping[str, str]) -> list[LocatedIssue]:
    """Issues under a service manager's system instance; elsewhere none."""
    if not is_system_service(environ):
        return []
    return [
        LocatedIssue(
            each.path, None, "", f"{each.writer} can change it: {each.remedy}", REFUSED_FROM
        )
        for each in writable(config, User.own())
    ]


def is_system_service(environ: Mapping[str, str]) -> bool:
    """Whether systemd's system instance runs this process, or the one that asked it to check.

    $MANAGERPID is set by a user's instance; $SYSTEMD_EXEC_PID is inherited by all that the
    service starts, such as the shells of a CI runner (systemd.exec(5)).
    """
    main = environ.get("SYSTEMD_EXEC_PID")
    started = main in {str(os.getpid()), str(os.getppid())}
    return started and "INVOCATION_ID" in environ and "MANAGERPID" not in environ


def _parts(config: Config) -> Iterator[Path]:
    yield config.path
    home = config.path.absolute().parent
    if not home.stat().st_mode & stat.S_ISVTX:  # as in /tmp, others replace no file there
        yield home
    folders = [each.resolve() for each in config.plugins]
    yield from folders
    registry = config.registry
    plugins = [each.origin for each in registry.sinks.values()]
    for plugin in plugins + [each.origin for each in registry.sources.values()]:
        origin = Path(plugin)
        if any(folder in origin.parents for folder in folders):
            yield origin
            yield origin.parent


def _judged(path: Path, service: User) -> Writable | None:
    found = path.stat()
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return None
    if found.st_mode & 0o002:
        return Writable(path, EVERYBODY, f"chmod o-w {path}")
    if service.user == 0:
        return None
    name = user_name(service.user)
    if found.st_uid == service.user:
        return Writable(path, f"the relay's own user, {name},", f"chown root {path}")
    if found.st_mode & 0o020 and found.st_gid in service.groups:
        return Writable(path, f"the relay's own user, {name},", f"chmod g-w {path}")
    return None
