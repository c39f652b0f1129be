"""Installation as a systemd service: the files, folders and links, and their state."""

import ipaddress
import re
import secrets
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import relay
from relay.config.document import Document
from relay.config.model import Server
from relay.install_image import Image
from relay.units import HostPort

CONFIG = Path("/etc/relay/relay.yaml")
CREDENTIALS = CONFIG.parent / "credentials"
PLUGINS = CONFIG.parent / "plugins"
TOKEN = CREDENTIALS / "sumotext-token"
DATA = Path("/var/lib/relay")
UNITS = Path("/etc/systemd/system")
USERS = Path("/etc/sysusers.d/relay.conf")
MODES = Path("/etc/tmpfiles.d/relay.conf")
SOCKET = UNITS / "relay.socket"
SERVICE = UNITS / "relay.service"
UNIT_PATHS = (SOCKET, SERVICE)
LINKS = {
    UNITS / "sockets.target.wants" / SOCKET.name: SOCKET,
    UNITS / "multi-user.target.wants" / SERVICE.name: SERVICE,
}
COMMAND = Path("/usr/local/bin/relay")

TOKEN_BYTES = 24

HIDDEN = tuple(map(Path, ("/root", "/home", "/run/user", "/tmp", "/var/tmp")))  # noqa: S108
"""Folders that the unit hides from the service."""

OURS = "# Written by `relay service install`"
USER_LINE = f'u relay - "Sumotext Relay" {DATA}\n'
MODE_LINES = f"""\
d {CONFIG.parent} 0750 root relay
z {CONFIG} 0640 root relay
d {PLUGINS}
Z {PLUGINS} ~0750 root relay
d {CREDENTIALS}
Z {CREDENTIALS} ~0700 root root
"""


class NotInstallable(Exception):
    """The relay cannot be installed this way; the message says what to do instead."""


class Change(StrEnum):
    """What an installation does with an artifact."""

    MAKE = "make"
    CHANGE = "change"
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A folder, a file with its text, or a link with its target.

    One that is `theirs` belongs to the operator: once it is there, it is not changed.
    """

    path: Path
    purpose: str
    mode: int = 0o755
    text: str | None = None
    target: Path | None = None
    theirs: bool = False

    def change(self, root: Path) -> Change:
        """What an installation under `root` does with it."""
        image = Image(root)
        if not image.has(self.path):
            return Change.MAKE
        return Change.KEEP if self.theirs or self._is_current(image) else Change.CHANGE

    def put(self, root: Path) -> None:
        """Create or replace it, atomically."""
        image = Image(root)
        if self.target:
            image.make_link(self.path, self.target)
        elif self.text is None:
            image.make_folder(self.path, self.mode)
        else:
            image.write(self.path, self.text.encode(), self.mode)

    def _is_current(self, image: Image) -> bool:
        if self.target:
            return image.link(self.path) == self.target
        if self.text is None:
            return image.is_folder(self.path)
        return image.file(self.path) == (self.text.encode(), self.mode)


def plan(root: Path, program: Path, environ: Mapping[str, str]) -> list[Artifact]:
    """The artifacts of an installation of `program` under `root`, in the order of their creation.

    Raises NotInstallable or ConfigError where a relay.yaml there names no address that systemd
    can hold.
    """
    return [*_settings(root), *_machinery(root, program, _address(root, environ))]


def put(root: Path, artifacts: Iterable[Artifact]) -> set[Path]:
    """Install the artifacts; return the paths that were created or changed."""
    wanted = [artifact for artifact in artifacts if artifact.change(root) is not Change.KEEP]
    for artifact in wanted:
        artifact.put(root)
    return {artifact.path for artifact in wanted}


def removable(root: Path) -> list[Path]:
    """The installed paths without settings, secrets and data."""
    image = Image(root)
    places = [path for path in (*UNIT_PATHS, *LINKS, USERS, MODES, COMMAND) if _ours(image, path)]
    return [path for path in places if image.has(path)]


def _settings(root: Path) -> list[Artifact]:
    folders = [
        Artifact(CONFIG.parent, "settings", 0o750),
        Artifact(PLUGINS, "sinks of your own", 0o750),
        Artifact(CREDENTIALS, "secrets, a file each", 0o700),
    ]
    config = Artifact(CONFIG, "the settings", 0o640, _template("relay.installed.yaml"), theirs=True)
    if config.change(root) is Change.KEEP:
        return [*folders, config]
    token = secrets.token_urlsafe(TOKEN_BYTES) + "\n"
    return [*folders, Artifact(TOKEN, "a new token", 0o600, token, theirs=True), config]


def _machinery(root: Path, program: Path, address: HostPort) -> list[Artifact]:
    start = f"{program} run --config {CONFIG}"
    command = Artifact(COMMAND, "the commands", 0o755, _command(program))
    return [
        Artifact(USERS, "the user relay", 0o644, USER_LINE),
        Artifact(MODES, "who may read the settings", 0o644, MODE_LINES),
        Artifact(SOCKET, "holds the address", 0o644, _unit(SOCKET, "ListenStream", str(address))),
        Artifact(SERVICE, "runs the relay", 0o644, _unit(SERVICE, "ExecStart", start)),
        *(
            Artifact(link, "starts it with the machine", target=unit)
            for link, unit in LINKS.items()
        ),
        *([command] if _ours(Image(root), COMMAND) and program != COMMAND else []),
    ]


def beneath(root: Path, path: Path) -> Path:
    """The path in the image of a path of the machine."""
    return root / path.relative_to("/")


def check_program(program: Path, needed: Iterable[Path]) -> None:
    """Check that the service can read its program, and the paths that it needs."""
    for path in (program, *needed):
        if any(path.is_relative_to(folder) for folder in HIDDEN):
            raise NotInstallable(
                f"the service would not see {path}, as homes and /tmp are hidden from it: "
                "put the relay into a folder such as /opt/relay, and install it from there "
                "(for an image, say where it has the relay: --program /opt/relay/bin/relay)"
            )
        for folder in path.parents:
            if folder.exists() and not folder.stat().st_mode & stat.S_IXOTH:
                raise NotInstallable(
                    f"the service runs as a user of its own, who may not enter {folder}: "
                    f"chmod o+rx {folder}"
                )


def _address(root: Path, environ: Mapping[str, str]) -> HostPort:
    """`server.listen` of the installed relay.yaml, as systemd takes it."""
    listen = Server.model_fields["listen"].default
    if config := Image(root).real(CONFIG):
        document = Document(config, environ, strict=False)
        if document.issues:
            raise document.error()
        listen = document.part("server", "listen") or listen
    try:
        address = HostPort.parse(str(listen))
        host = "127.0.0.1" if address.host == "localhost" else address.host
        ipaddress.ip_address(host)
    except ValueError:
        raise NotInstallable(
            f"{config}: server.listen: systemd wants a number and a port, such as 127.0.0.1:8080"
        ) from None
    return HostPort(host, address.port)


def _command(program: Path) -> str:
    return f"""\
#!/bin/sh
{OURS}: the commands, with the settings and the secrets of the service.
export RELAY_CONFIG="${{RELAY_CONFIG:-{CONFIG}}}"
export CREDENTIALS_DIRECTORY="${{CREDENTIALS_DIRECTORY:-{CREDENTIALS}}}"
exec {program} "$@"
"""


def _unit(path: Path, key: str, value: str) -> str:
    """The shipped unit with the value of one key replaced."""
    line = f"{key}={value}"
    return re.sub(rf"^{key}=.*$", lambda _: line, _template(path.name), flags=re.MULTILINE)


def _template(name: str) -> str:
    """A file of the folder config, which the wheel has inside the package."""
    package = Path(relay.__file__).parent
    shipped = package / "installed"
    return ((shipped if shipped.is_dir() else package.parent / "config") / name).read_text()


def _ours(image: Image, path: Path) -> bool:
    """Whether an installation may write there: another program may have the command's name."""
    if path != COMMAND or not image.has(path):
        return True
    content, _ = image.file(path) or (b"", 0)
    return OURS.encode() in content
