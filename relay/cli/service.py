"""`relay service`: install the relay as a service of systemd, or remove it."""

import os
import subprocess
import sys
from pathlib import Path

import click

import relay
from relay.cli import HelpGroup, options
from relay.cli.output import print_table
from relay.config.loader import ConfigError
from relay.install import (
    CONFIG,
    DATA,
    MODES,
    SERVICE,
    SOCKET,
    TOKEN,
    USERS,
    Artifact,
    NotInstallable,
    check_program,
    plan,
    put,
    removable,
)
from relay.install_image import Image

OLDEST = 252
MACHINE = Path("/")

root_option = click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path, resolve_path=True),
    default=MACHINE,
    metavar="DIR",
    help="Use the image of a machine in DIR instead of this one. Nothing is started.",
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Only show what would be done.")


@click.group(cls=HelpGroup)
def service() -> None:
    """Install the relay as a service of systemd, or take it away."""


@service.command()
@root_option
@dry_run_option
@options.yes
@click.option(
    "--program",
    type=click.Path(path_type=Path),
    help="The program in the image. Default: this program.",
)
def install(root: Path, dry_run: bool, yes: bool, program: Path | None) -> None:
    """Install the relay as a systemd service. It shows what it will do, and asks.

    Makes a user, /etc/relay with a relay.yaml and a token, and the units relay.socket and
    relay.service, and starts them. Run it again after moving the relay or changing server.listen:
    it changes what has to change, and leaves your settings alone.
    """
    wanted = _plan(root, program)
    print_table(
        ["", "Path", "What it is"],
        [[artifact.change(root), str(artifact.path), artifact.purpose] for artifact in wanted],
    )
    if root == MACHINE:
        click.echo("Then the user relay is made, and the relay started.")
    if dry_run:
        return
    _may_change(root)
    if not yes:
        click.confirm("Go on?", abort=True, err=True)
    made = put(root, wanted)
    if root == MACHINE:
        _start(made)
    _say_what_is_next(root, new=CONFIG in made)


@service.command()
@root_option
@dry_run_option
@options.yes
@click.option("--purge", is_flag=True, help="Also remove the settings, the secrets and all events.")
def uninstall(root: Path, dry_run: bool, yes: bool, purge: bool) -> None:
    """Stop the service and remove it. Settings and events stay, unless --purge."""
    found = removable(root)
    image = Image(root)
    kept = [path for path in (CONFIG.parent, DATA) if image.has(path)]
    gone = [*found, *kept] if purge else found
    if not found and not kept:
        click.echo("There is nothing to take away.")
        return
    print_table(
        ["", "Path"],
        [["remove" if path in gone else "keep", str(path)] for path in (*found, *kept)],
    )
    if dry_run or not gone:
        return
    _may_change(root)
    if not yes:
        question = "Remove all of this, the events too, for good?" if purge else "Go on?"
        click.confirm(question, abort=True, err=True)
    if root == MACHINE and SERVICE in gone:
        _system("systemctl", "stop", SOCKET.name, SERVICE.name)
    for path in gone:
        image.remove(path)
    if root == MACHINE:
        _system("systemctl", "daemon-reload")


def _plan(root: Path, program: Path | None) -> list[Artifact]:
    """What is to be there; a refusal where the service could not run."""
    try:
        needed = [] if program else [Path(sys.executable).resolve(), Path(relay.__file__).parent]
        program = program or Path(sys.executable).with_name("relay")
        check_program(program, needed)
        return plan(root, program, os.environ)
    except NotInstallable as error:
        raise click.ClickException(str(error)) from error
    except ConfigError as error:
        raise options.WrongConfiguration(str(error)) from error


def _may_change(root: Path) -> None:
    """Refuse what would fail half-way."""
    if root != MACHINE:
        return
    if os.geteuid() != 0:
        raise click.ClickException("this is for root: put sudo before it")
    if not Path("/run/systemd/system").is_dir():
        raise click.ClickException("systemd does not run here; --root DIR writes into an image")
    if (version := _systemd()) < OLDEST:
        raise click.ClickException(f"systemd {version} is too old: it has to be {OLDEST} or newer")


def _systemd() -> int:
    said = subprocess.run(["systemctl", "--version"], check=True, capture_output=True, text=True)  # noqa: S607
    return int(said.stdout.split()[1])


def _start(made: set[Path]) -> None:
    _system("systemd-sysusers", USERS)
    _system("systemd-tmpfiles", "--create", MODES)
    _system("systemctl", "daemon-reload")
    if SOCKET in made:
        _system("systemctl", "restart", SOCKET.name, SERVICE.name)
    elif SERVICE in made:  # the socket goes on, so this refuses no callback
        _system("systemctl", "restart", SERVICE.name)
    else:
        _system("systemctl", "start", SOCKET.name, SERVICE.name)


def _system(*words: str | Path) -> None:
    """Run a program of systemd's, which says itself what is wrong."""
    if subprocess.run(words, check=False).returncode:  # noqa: S603  nothing in it is anybody else's
        raise click.ClickException(f"{' '.join(map(str, words))} failed; journalctl -u relay")


def _say_what_is_next(root: Path, *, new: bool) -> None:
    if root != MACHINE:
        click.echo(f"The image in {root} starts the relay when it is booted.")
    else:
        click.echo("The relay runs: `relay status`, `journalctl -u relay`.")
    if new:
        click.echo(f"Its settings are {CONFIG}; the token for Sumotext is in {TOKEN}.")
