"""`relay plugins`: which kinds of sinks there are, and a start for one's own."""

import os
import re
from pathlib import Path

import click

from relay import ownership
from relay.cli import options
from relay.cli.help_group import Family
from relay.cli.output import print_json, print_table
from relay.config.document import Reading
from relay.config.loader import ConfigError, plugin_folders, registry_of

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


@click.group(cls=Family)
def plugins() -> None:
    """Look at the plugins, or begin one."""


@plugins.command("list")
@options.config_path
@options.as_json
def list_(path: Path, as_json: bool) -> None:
    """List what can stand behind `plugin:` in relay.yaml, whatever else is wrong there."""
    registry = registry_of(_read(path))
    found = [
        {
            "name": sink.name,
            "class": sink.sink_class.__name__,
            "max_batch": sink.sink_class.max_batch,
            "origin": sink.origin,
        }
        for sink in registry.sinks.values()
    ]
    if as_json:
        print_json(found)
    else:
        print_table(("Plugin", "From"), [[each["name"], each["origin"]] for each in found])
    if registry.errors:
        raise options.WrongConfiguration("\n".join(map(str, registry.errors)))


@plugins.command()
@click.argument("name")
@options.config_path
def new(path: Path, name: str) -> None:
    """Begin a plugin: a file that works, to be changed."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise click.UsageError("a plugin's name is lower-case letters, digits and _")
    # Only the folders are read: relay.yaml may already name the plugin that is to be begun.
    reading = _read(path)
    if there := registry_of(reading).sinks.get(name):
        raise click.ClickException(f"there is a plugin {name} already: {there.origin}")
    if not (folders := plugin_folders(reading)):
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


def _read(path: Path) -> Reading:
    """relay.yaml, whatever is wrong with it, as long as it says which folders there are."""
    try:
        reading = Reading(path, os.environ, strict=False)
    except ConfigError as error:
        raise options.WrongConfiguration(str(error)) from error
    if reading.unfilled("plugins") or any(not each.location for each in reading.mistakes):
        raise options.WrongConfiguration(str(Reading(path, os.environ, strict=True).error()))
    return reading
