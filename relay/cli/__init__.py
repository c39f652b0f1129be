"""The command `relay`. The module of a command is imported when that command is used."""

import importlib
import io
import os
import sys
from types import ModuleType
from typing import Any

import click
import orjson
from click.shell_completion import CompletionItem

FAMILIES = {
    "Set up": {
        "run": ("relay.cli.run", "Take callbacks and deliver them, until stopped."),
        "check": ("relay.cli.configure", "Look for mistakes in relay.yaml."),
        "reload": ("relay.cli.run", "Make the running relay read relay.yaml again."),
        "setup": ("relay.cli.configure", "Create what a sink needs in the system behind it."),
        "plugins": ("relay.cli.configure", "List the plugins, or create one."),
        "service": ("relay.cli.service", "Install the relay as a systemd service."),
        "schema": ("relay.cli.configure", "Print the JSON Schema of relay.yaml, for editors."),
    },
    "Try": {
        "send": ("relay.cli.trial", "Send a callback to the relay, as Sumotext would."),
        "preview": ("relay.cli.trial", "Show what each sink would get; send nothing."),
        "test": ("relay.cli.trial", "Send a test callback, and follow it to each sink."),
    },
    "Look": {
        "status": ("relay.cli.status", "Show the number of events and the state of each sink."),
        "events": ("relay.cli.events", "List and show the events."),
        "doctor": ("relay.cli.doctor", "Find what is wrong, or soon will be, and say what to do."),
        "consent": ("relay.cli.maintenance", "Export opt-outs and opt-ins."),
    },
    "Act": {
        "dead": ("relay.cli.events", "List, replay or discard dead deliveries."),
        "quarantine": ("relay.cli.quarantine", "List, release or discard callbacks in quarantine."),
        "replay": ("relay.cli.events", "Deliver events again, or to a sink that is new."),
        "sinks": ("relay.cli.sinks", "Pause, resume, rename, discard a sink."),
        "alerts": ("relay.cli.configure", "Send a test alert."),
    },
    "Keep": {
        "backup": ("relay.cli.maintenance", "Copy the store while the relay runs."),
        "restore": ("relay.cli.maintenance", "Put a copy back."),
        "purge": ("relay.cli.maintenance", "Delete old events and callbacks."),
        "erase": ("relay.cli.maintenance", "Erase a contact."),
    },
}
"""Each command with its module, where it is a function of the same name, and its short help."""

COMMANDS = {name: each for members in FAMILIES.values() for name, each in members.items()}

EXPECTED = (("relay.store", "StoreError"), ("relay.config.plugins", "PluginError"))
"""Errors that are one sentence for the user. Their modules are not imported for that."""

WHOLE = 1000
"""Characters; click's own help cuts a sentence to what is left of its line."""


def load(module: str) -> ModuleType:
    """Import a module that only some commands need. This is the one place that does so."""
    return importlib.import_module(module)


class Commands(click.Group):
    """The command tree, and the edge at which an error becomes one sentence."""

    def main(self, *args: Any, **options: Any) -> Any:
        _replace_what_cannot_be_shown()
        return super().main(*args, **options)

    def list_commands(self, _: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(load(COMMANDS[name][0]), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # `relay events list | head`: click ends without a word
            raise
        except (UnicodeEncodeError, orjson.JSONEncodeError):
            raise click.UsageError("something in what was given is not UTF-8 text") from None
        except Exception as error:
            if isinstance(error, _expected()):
                raise click.ClickException(_sentence(error)) from error
            raise

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        for family, members in FAMILIES.items():
            with formatter.section(family):
                formatter.write_dl([(f"{name:<10}", says) for name, (_, says) in members.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The names of the commands, without their modules."""
        names = [
            CompletionItem(name, help=says)
            for name, (_, says) in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)


class HelpGroup(click.Group):
    """A group such as `relay dead`. Its help has the first sentence of each command uncut."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        members = [(name, self.commands[name]) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, each.get_short_help_str(WHOLE)) for name, each in members])


def _expected() -> tuple[type[Exception], ...]:
    """OSError, and those of `EXPECTED` in loaded modules: no other can have been raised."""
    found = [(sys.modules[module], name) for module, name in EXPECTED if module in sys.modules]
    return (OSError, *(getattr(module, name) for module, name in found))


def _sentence(error: Exception) -> str:
    """What went wrong. The system's own errors name the file first, and no error number."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{os.fspath(error.filename)}: {error.strerror}"
    return str(error)


def _replace_what_cannot_be_shown() -> None:
    """Characters that the locale does not have; writing them would fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sumotext-relay", message="%(version)s")
def main() -> None:
    """Take Sumotext's callbacks, keep them on disk, deliver them to your own systems.

    `relay COMMAND --help` explains each. Exit status: 0 done, 1 failed, 2 wrong usage,
    78 wrong configuration.
    """
