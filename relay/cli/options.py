"""Options that many commands share."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from relay.cli.times import Resolve, moment
from relay.config import last_good
from relay.config.loader import Config, ConfigError, load
from relay.sources.sumotext import KINDS

F = TypeVar("F", bound=Callable[..., Any])
Option = Callable[[F], F]


class WrongConfiguration(click.ClickException):
    """relay.yaml has mistakes: each on a line of its own, ready for an editor to jump to."""

    exit_code = 78

    def show(self, file: Any = None) -> None:
        click.echo(self.message, file=file, err=file is None)


def right_config(path: Path) -> Config:
    """What relay.yaml says; an unset `${NAME}` is a mistake."""
    try:
        return load(path, os.environ)
    except ConfigError as error:
        raise WrongConfiguration(str(error)) from error


def usable_config(path: Path) -> Config:
    """What relay.yaml says, unfilled; while it is wrong, what the relay goes on with."""
    try:
        return load(path, os.environ, fill=False)
    except ConfigError as error:
        wrong = error
    try:
        last = last_good.load(path, os.environ, wrong, fill=False)
    except ConfigError as error:
        raise WrongConfiguration(str(error)) from error
    click.echo(f"{path} is wrong (see `relay check`); this goes by the last valid one.", err=True)
    return last


def _config(*, fill: bool) -> Option[F]:
    def read(_: click.Context, __: click.Parameter, path: Path) -> Config:
        return right_config(path) if fill else usable_config(path)

    return _option("config", read)


def _option(name: str, callback: Callable[..., Any] | None = None) -> Option[F]:
    return click.option(
        name,
        "--config",
        "-c",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="RELAY_CONFIG",
        default="relay.yaml",
        show_default=True,
        show_envvar=True,
        callback=callback,
        help="The configuration.",
    )


config_path: Option[Any] = _option("path")
config: Option[Any] = _config(fill=False)
filled_config: Option[Any] = _config(fill=True)
as_json: Option[Any] = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, with contacts' numbers in full."
)
limit: Option[Any] = click.option(
    "--limit",
    "-n",
    type=click.IntRange(1, 1000),
    default=50,
    show_default=True,
    metavar="NUMBER",
    help="The most to list.",
)
yes: Option[Any] = click.option("--yes", "-y", is_flag=True, help="Do not ask.")
since: Option[Any] = click.option(
    "--since", type=moment, metavar="TIME", help="A time, or how long ago: 2h, 3d."
)
until: Option[Any] = click.option(
    "--until", type=moment, metavar="TIME", help="The same; that moment is out."
)


def source_name(config: Config, wanted: str | None) -> str:
    """The source asked for, else the first of relay.yaml."""
    known = ", ".join(config.sources) or "none"
    name = wanted or next(iter(config.sources), "")
    if name not in config.sources:
        raise click.UsageError(f"no source {name!r} in relay.yaml (known: {known})")
    return name


def moments(config: Config, since: Resolve | None, until: Resolve | None) -> dict[str, int | None]:
    """`--since` and `--until` in microseconds, by the time zone of the configuration."""
    now = time.time()
    return {
        "since": since(config.timezone, now) if since else None,
        "until": until(config.timezone, now) if until else None,
    }


def where(command: F) -> F:
    """The options that say which events."""
    for option in (
        click.option("--keyword", help="Only of this keyword."),
        click.option("--kind", type=click.Choice(KINDS), help="Only of this kind."),
        click.option("--source", help="Only from this source."),
        until,
        since,
    ):
        command = option(command)
    return command
