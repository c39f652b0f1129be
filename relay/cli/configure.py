"""Commands for relay.yaml and what it names: check, schema, plugins, setup, alerts test."""

import asyncio
import inspect
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from relay import ownership
from relay.alerts.notifiers import NotificationFailed, Notifier, make_notifiers
from relay.alerts.policy import Alert, Notification
from relay.cli import HelpGroup, client, local, options
from relay.cli.options import WrongConfiguration
from relay.cli.output import count, print_json, print_table, printable, progress
from relay.clock import SystemClock
from relay.config import last_good
from relay.config.document import Document
from relay.config.loader import Config, ConfigError, plugin_folders, registry_of
from relay.config.schema import text
from relay.config.sinks import SinkConfig
from relay.delivery import crashes, manager
from relay.delivery.classify import lines, outcome_of, readable, split_notices
from relay.delivery.manager import make_sink
from relay.delivery.plugin_calls import run_with_timeout
from relay.preflight import vetted
from relay.server.sockets import Listeners
from relay.server.tls import Certificate, missing_chain


@click.command()
@options.config_path
@click.option("--online", is_flag=True, help="Also ask the system behind each sink.")
def check(path: Path, online: bool) -> None:
    """Look for mistakes in relay.yaml. With --online, also look for sinks that would fail."""
    try:
        config = asyncio.run(vetted(path, Listeners()))
    except ConfigError as error:
        said = [str(error), *_instead(path, error), *_elsewhere(error)]
        raise WrongConfiguration("\n".join(said)) from error
    if tls := config.server.tls:
        Certificate(tls.cert, tls.key)
    sources, sinks = _named(config.sources, "source"), _named(config.sinks, "sink")
    click.echo(f"{config.path} is right: {sources}, {sinks}.")
    for each in [*config.warnings, *_of_chain(config)]:
        click.echo(f"Warning: {each}", err=True)
    if not config.sources:
        click.echo("Without a source, no callback is taken: add one under `sources:`.", err=True)
    for name in _without_consent(config):
        click.echo(
            f"Warning: sinks.{name}: its `when` can keep opt-outs away; options.consent has each"
            " written, whatever `when` says.",
            err=True,
        )
    _name_orphans(config)
    if online and not crashes.run_watched(_all_answer(config)):
        raise click.exceptions.Exit(1)


def _of_chain(config: Config) -> list[str]:
    """What is to be said of a certificate without its chain."""
    if (tls := config.server.tls) is None or not (said := missing_chain(tls.cert)):
        return []
    return [f"server.tls.cert: {said}"]


def _without_consent(config: Config) -> list[str]:
    """The sinks that could write consent, and have no option for it but a `when`."""
    return [
        name
        for name, sink in config.sinks.items()
        if sink.when is not None and getattr(sink.options, "consent", ...) is None
    ]


def _named(parts: Mapping[str, object], thing: str) -> str:
    return f"{count(len(parts), thing)} ({', '.join(parts)})" if parts else f"no {thing}"


def _instead(path: Path, wrong: ConfigError) -> list[str]:
    """What `relay run` would do with a configuration that is wrong, unless it refuses it."""
    try:
        last = last_good.load(path, os.environ, wrong, fill=True)
    except ConfigError:
        return []
    held = [name for name, sink in last.sinks.items() if sink.held is not None]
    without = f", holding back {', '.join(held)}" if held else ""
    return [f"Until it is right, `relay run` goes on with the last valid configuration{without}."]


def _elsewhere(wrong: ConfigError) -> list[str]:
    """Who does know what is unknown here, if that is all that is wrong."""
    if all(each.message.startswith("${") for each in wrong.issues):
        return ["If the service knows it, `relay doctor` has the running relay check its sinks."]
    return []


def _name_orphans(config: Config) -> None:
    """Sinks that have gone from the file with deliveries left; said only where it can be read."""
    try:
        if not client.has_store(config):
            return
        sinks = client.ask(config, lambda session: session.get("/sinks"))
    except (click.ClickException, OSError) as error:
        reason = error.message if isinstance(error, click.ClickException) else error
        click.echo(f"The store was not looked at: {reason}.", err=True)
        return
    for sink in sinks:
        if sink["state"] == "orphaned":
            name = sink["name"]
            click.echo(
                f"Orphaned: {name}, {sink['pending']} pending and {sink['dead']} dead."
                f" `relay sinks rename {name} NEW` or `relay sinks discard {name}`."
            )


async def _all_answer(config: Config) -> bool:
    enabled = [sink for sink in config.sinks.values() if sink.enabled]
    found = await manager.check_sinks(enabled, local.accounts_of(config))
    all_well = True
    for name, told_of in found.items():
        problems, notices = split_notices(told_of)
        told = [f"notice: {each}" for each in notices if each != manager.NOT_ASKED]
        if not problems:
            told.insert(0, manager.NOT_ASKED if manager.NOT_ASKED in notices else "well")
        for each in problems + told:
            click.echo(f"{name}: {printable(each)}")
        all_well &= not problems
    return all_well


@click.command()
@options.config
def schema(config: Config) -> None:
    """Print the JSON Schema of relay.yaml, with the options of every plugin found."""
    click.echo(text(config.registry), nl=False)


START = '''\
"""{title}: say here what the sink does.

sinks:
  {name}: {{plugin: {name}, options: {{url: https://example.com/}}}}
"""

import relay


class Options(relay.Options):
    url: str


class {title}(relay.Sink):
    Options = Options

    async def send(self, delivery):
        response = await self.http.post(self.options.url, json=delivery.record)
        response.raise_for_status()


@relay.hookimpl
def register_sinks(register):
    register("{name}", {title})
'''


@click.group(cls=HelpGroup)
def plugins() -> None:
    """List the plugins, or create one."""


@plugins.command("list")
@options.config_path
@options.as_json
def plugins_list(path: Path, as_json: bool) -> None:
    """List the plugins that relay.yaml can name, even if relay.yaml has mistakes."""
    registry = registry_of(_read_plugins(path))
    found: list[dict[str, Any]] = [
        {
            "name": sink.name,
            "type": "sink",
            "class": sink.sink_class.__name__,
            "max_batch": sink.sink_class.max_batch,
            "origin": sink.origin,
        }
        for sink in registry.sinks.values()
    ]
    found += [
        {
            "name": source.name,
            "type": "source",
            "class": source.source_class.__name__,
            "kinds": source.source_class.kinds,
            "origin": source.origin,
        }
        for source in registry.sources.values()
    ]
    if as_json:
        print_json(found)
    else:
        rows = [[each["name"], each["type"], each["origin"]] for each in found]
        print_table(("Plugin", "For", "From"), rows)
    if registry.errors:
        raise options.WrongConfiguration("\n".join(map(str, registry.errors)))


@plugins.command("new")
@click.argument("name")
@options.config_path
def plugins_new(path: Path, name: str) -> None:
    """Create a plugin: a working file for you to change."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise click.UsageError("a plugin's name is lower-case letters, digits and _")
    # Only the folders are read: relay.yaml may already name the plugin that is to be begun.
    document = _read_plugins(path)
    if there := registry_of(document).sinks.get(name):
        raise click.ClickException(f"there is a plugin {name} already: {there.origin}")
    if not (folders := plugin_folders(document)):
        raise click.ClickException(f"{path} names no folder under `plugins:`; add one first")
    file = folders[-1] / f"{name}.py"
    if file.with_suffix("").exists():
        raise click.ClickException(f"{file.with_suffix('')} is there already")
    ownership.give_up_root(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("x") as opened:
            opened.write(START.format(name=name, title=name.title().replace("_", "")))
    except FileExistsError:
        raise click.ClickException(f"{file} is there already") from None
    click.echo(f"{file} is a plugin that works; `relay plugins list` names it.")


def _read_plugins(path: Path) -> Document:
    """relay.yaml, whatever is wrong with it, as long as it says which folders there are."""
    try:
        document = Document(path, os.environ, strict=False)
    except ConfigError as error:
        raise options.WrongConfiguration(str(error)) from error
    if document.unfilled("plugins") or any(not each.location for each in document.issues):
        raise options.WrongConfiguration(str(Document(path, os.environ, strict=True).error()))
    return document


LONGEST = 24 * 3600.0
"""Seconds; to fill the keys of a million people takes hours."""


@click.command()
@click.argument("name", metavar="SINK", shell_complete=options.sink_names)
@options.filled_config
@click.option(
    "--backfill-keys",
    is_flag=True,
    help="Also write the key to the records that exist already.",
)
@click.option(
    "--create",
    multiple=True,
    metavar="FIELD",
    help="Create this field although its name is much like another. May be given several times.",
)
def setup(config: Config, name: str, backfill_keys: bool, create: tuple[str, ...]) -> None:
    """Create what a sink needs in the system behind it, such as the fields that it fills.

    It says what it created, and what is left for you to do there. Run it as often as you like: it
    creates only what is missing.
    """
    if isinstance(config.store, Path):
        client.become_owner(config.store)
    done = asyncio.run(_set_up(config, _sink(config, name), backfill=backfill_keys, create=create))
    for line in done or ["nothing to set up"]:
        click.echo(printable(line))


def _sink(config: Config, name: str) -> SinkConfig:
    if name not in config.sinks:
        known = ", ".join(config.sinks) or "none"
        raise click.UsageError(f"no sink {name!r} in relay.yaml (known: {known})")
    return config.sinks[name]


async def _set_up(
    config: Config, chosen: SinkConfig, *, backfill: bool, create: tuple[str, ...]
) -> list[str]:
    """What the sink's own `setup` did. Plugins may raise anything."""
    more: dict[str, Any] = {"create": create} if create else {}
    if create and "create" not in inspect.signature(chosen.sink_class.setup).parameters:
        raise click.UsageError(f"the sink {chosen.name} makes no fields, so --create has no use")
    try:
        sink = make_sink(chosen, SystemClock(), local.accounts_of(config))
        with progress(None, "setting up") as bar:

            def show(done: int, total: int | None) -> None:
                bar.update(bar.task_ids[0], completed=done, total=total)

            async with sink.http:
                found = await run_with_timeout(
                    LONGEST, sink.setup(backfill=backfill, progress=show, **more)
                )
        return lines(found)
    except Exception as error:  # it is the plugin's, whatever it is
        reason = outcome_of(error, time.time()).reason
        raise click.ClickException(f"{chosen.name}: {printable(readable(reason))}") from error


@click.group(cls=HelpGroup)
def alerts() -> None:
    """Who is told when something is wrong."""


@alerts.command("test")
@options.filled_config
def alerts_test(config: Config) -> None:
    """Send a test alert to the webhook and the mailbox of `alerts`."""
    if not asyncio.run(_notify_all(config)):
        raise click.exceptions.Exit(1)


async def _notify_all(config: Config) -> bool:
    found = make_notifiers(config.alerts)
    if not found:
        raise click.ClickException("alerts names no webhook and no email: only the log is told")
    now = SystemClock().now()
    notification = Notification(
        now, [Alert("test", "", "This is a test: nothing is wrong.", now, now)], [], []
    )
    return all([await _notify(notifier, notification) for notifier in found])


async def _notify(notifier: Notifier, notification: Notification) -> bool:
    """Tell it, and say what came of it."""
    try:
        await notifier.send(notification)
    except NotificationFailed as error:
        click.echo(f"{notifier.name}: {printable(str(error))}")
        return False
    finally:
        await notifier.close()
    click.echo(f"{notifier.name}: told")
    return True
