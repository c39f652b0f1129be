"""Options that many commands share: relay.yaml, times, names of sinks and sources."""

import ast
import contextlib
import os
import time
from collections.abc import Callable
from datetime import datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from relay.cli import load

if TYPE_CHECKING:
    from relay.config.loader import Config

F = TypeVar("F", bound=Callable[..., Any])
Option = Callable[[F], F]
Resolve = Callable[[tzinfo, float], int]


class WrongConfiguration(click.ClickException):
    """relay.yaml has mistakes: each on a line of its own, ready for an editor to jump to."""

    exit_code = 78

    def show(self, file: Any = None) -> None:
        click.echo(self.message, file=file, err=file is None)


def right_config(path: Path) -> "Config":
    """What relay.yaml says; an unset `${NAME}` is a mistake."""
    loader = load("relay.config.loader")
    try:
        config: Config = loader.load(path, os.environ)
    except loader.ConfigError as error:
        raise WrongConfiguration(str(error)) from error
    return config


def usable_config(path: Path, *, warn: bool = True) -> "Config":
    """What relay.yaml says, unfilled; while it is wrong, what the relay goes on with.

    Without `warn` nothing is said of that: the command itself says what is wrong.
    """
    loader = load("relay.config.loader")
    config: Config
    try:
        config = loader.load(path, os.environ, fill=False)
        return config
    except loader.ConfigError as error:
        wrong = error
    try:
        config = load("relay.config.last_good").load(path, os.environ, wrong, fill=False)
    except loader.ConfigError as error:
        raise WrongConfiguration(str(error)) from error
    if warn:
        text = f"{path} is wrong (see `relay check`); this goes by the last valid one."
        click.echo(text, err=True)
    return config


def outline(path: Path) -> dict[str, Any]:
    """What relay.yaml says as bare text, neither filled in nor checked; nothing where it cannot.

    It costs a tenth of reading the configuration.
    """
    yaml = load("yaml")
    try:
        found = yaml.load(path.read_bytes(), yaml.CBaseLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _names(section: str) -> Callable[..., list[str]]:
    """For the completion of the shell: the names in a section of relay.yaml."""

    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
        path = ctx.params.get("config") or ctx.params.get("path") or "relay.yaml"
        names = outline(Path(path)).get(section)
        if not isinstance(names, dict):
            return []
        return [each for each in names if each.startswith(incomplete)]

    return complete


SUMOTEXT = "sumotext"
SUMOTEXT_KINDS = ("web_form", "poll", "text_4_info", "message")


def kinds(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """For the completion of the shell: the kinds of the sources of relay.yaml. No plugin is run."""
    path = Path(ctx.params.get("config") or "relay.yaml")
    written = outline(path)
    sources, folders = written.get("sources"), written.get("plugins", ["plugins"])
    given = list(sources.values()) if isinstance(sources, dict) else []
    plugins = [
        each.get("plugin", SUMOTEXT) if isinstance(each, dict) else SUMOTEXT for each in given
    ]
    found = list(SUMOTEXT_KINDS) if SUMOTEXT in plugins or not plugins else []
    if any(each != SUMOTEXT for each in plugins) and isinstance(folders, list):
        for folder in folders:
            found += _kinds_in(path.parent / str(folder))
    return [each for each in dict.fromkeys(found) if each.startswith(incomplete)]


def _kinds_in(folder: Path) -> list[str]:
    """What the classes of the plugins in a folder have as `kinds = ("message",)`."""
    found: list[str] = []
    for file in sorted([*folder.glob("[!_.]*.py"), *folder.glob("[!_.]*/__init__.py")]):
        with contextlib.suppress(OSError, SyntaxError, TypeError, ValueError, RecursionError):
            for each in ast.walk(ast.parse(file.read_bytes())):
                if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "kinds":
                    found += (kind for kind in ast.literal_eval(each.value) if type(kind) is str)
    return found


def _config(*, fill: bool) -> Option[F]:
    def read(ctx: click.Context, _: click.Parameter, path: Path) -> "Config | Path":
        if ctx.resilient_parsing:  # the shell asks how a word may go on
            return path
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
        help="The configuration file.",
    )


def parse_time(text: str) -> Resolve:
    """What gives the moment in microseconds since the epoch, for a time zone and the time now."""
    try:
        ago: float = load("relay.units").duration(text)
    except ValueError:
        written = _date(text)
        return lambda zone, _: _microseconds(_aware(written, zone).timestamp())
    return lambda _, now: _microseconds(max(now - ago, 0.0))


def _date(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is neither a date, nor a date and time, nor a duration such as 2h"
        ) from None


def _aware(written: datetime, zone: tzinfo) -> datetime:
    return written if written.tzinfo else written.replace(tzinfo=zone)


def _microseconds(seconds: float) -> int:
    return int(seconds * load("relay.clock").MICROSECONDS)


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
    help="The most rows to list.",
)
yes: Option[Any] = click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
since: Option[Any] = click.option(
    "--since",
    type=parse_time,
    metavar="TIME",
    help="From this time on: a time, or how long ago, as in 2h or 3d.",
)
until: Option[Any] = click.option(
    "--until", type=parse_time, metavar="TIME", help="Before this time, written as for --since."
)
sink_names = _names("sinks")
"""For `shell_complete` of an argument or option that names a sink."""
source: Option[Any] = click.option(
    "--source",
    shell_complete=_names("sources"),
    help="The source. Default: the first in relay.yaml.",
)
source_names = _names("sources")


def check_kind(config: "Config", kind: str | None) -> None:
    """Refuse a kind that no source has. A plugin's source need not name its kinds."""
    named = [each.source_class.kinds for each in config.registry.sources.values()]
    known = sorted({each for kinds in named for each in kinds})
    if kind is not None and kind not in known and all(named):
        raise click.UsageError(f"no source has the kind {kind!r} (known: {', '.join(known)})")


def source_name(config: "Config", wanted: str | None) -> str:
    """The source asked for, else the first of relay.yaml."""
    known = ", ".join(config.sources) or "none"
    name = wanted or next(iter(config.sources), "")
    if name not in config.sources:
        raise click.UsageError(f"no source {name!r} in relay.yaml (known: {known})")
    return name


def moments(
    config: "Config", since: Resolve | None, until: Resolve | None
) -> dict[str, int | None]:
    """`--since` and `--until` in microseconds, by the time zone of the configuration."""
    now = time.time()
    return {
        "since": since(config.timezone, now) if since else None,
        "until": until(config.timezone, now) if until else None,
    }
