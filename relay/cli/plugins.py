"""`relay plugins`: which kinds of sinks there are, and a start for one's own."""

import re
from pathlib import Path

import click

from relay import ownership
from relay.cli import options
from relay.cli.family import Family
from relay.cli.output import print_json, print_table
from relay.configuration.config import Config

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
@options.config
@options.as_json
def list_(config: Config, as_json: bool) -> None:
    """List what can stand behind `plugin:` in relay.yaml."""
    found = [
        {
            "name": sink.name,
            "class": sink.sink_class.__name__,
            "max_batch": sink.sink_class.max_batch,
            "origin": sink.origin,
        }
        for sink in config.registry.sinks.values()
    ]
    if as_json:
        print_json(found)
    else:
        print_table(("Plugin", "From"), [[each["name"], each["origin"]] for each in found])


@plugins.command()
@click.argument("name")
@options.config
def new(config: Config, name: str) -> None:
    """Begin a plugin: a file that works, to be changed."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise click.UsageError("a plugin's name is lower-case letters, digits and _")
    if there := config.registry.sinks.get(name):
        raise click.ClickException(f"there is a plugin {name} already: {there.origin}")
    path = _folder(config) / f"{name}.py"
    ownership.give_up_root(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x") as file:
            file.write(START.format(name=name, title=name.title().replace("_", "")))
    except FileExistsError:
        raise click.ClickException(f"{path} is there already") from None
    click.echo(f"{path} is a plugin that works; `relay plugins list` names it.")


def _folder(config: Config) -> Path:
    return config.folder / "plugins"
