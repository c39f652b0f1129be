"""The command `relay`: one file for each family of commands."""

import io
import os
import sys
from pathlib import Path
from typing import Any

import click
import orjson

from relay.cli.alerts import alerts
from relay.cli.backup import backup
from relay.cli.check import check
from relay.cli.consent import consent
from relay.cli.dead import dead
from relay.cli.doctor import doctor
from relay.cli.erase import erase
from relay.cli.events import events
from relay.cli.plugins import plugins
from relay.cli.preview import preview
from relay.cli.purge import purge
from relay.cli.quarantine import quarantine
from relay.cli.reload import reload
from relay.cli.replay import replay
from relay.cli.restore import restore
from relay.cli.run import run
from relay.cli.schema import schema
from relay.cli.send import send
from relay.cli.service import service
from relay.cli.setup import setup
from relay.cli.sinks import sinks
from relay.cli.status import status
from relay.cli.test import test
from relay.config.plugins import PluginError
from relay.store import StoreError

FAMILIES = {
    "Set up": {
        run: "Take callbacks and deliver them, until stopped.",
        check: "Look for mistakes in relay.yaml.",
        reload: "Have the running relay read relay.yaml again.",
        setup: "Make what a sink needs on its other side.",
        plugins: "List the kinds of sinks, or begin one.",
        service: "Make the relay a service of systemd.",
        schema: "Print the JSON Schema of relay.yaml, for editors.",
    },
    "Try": {
        send: "Send a callback to the relay, as Sumotext would.",
        preview: "Show what each sink would get; send nothing.",
        test: "Send a test callback, and follow it to each sink.",
    },
    "Look": {
        status: "How many events there are, how each sink stands.",
        events: "What has come in.",
        doctor: "What is wrong, or soon will be, and what to do.",
        consent: "Who opted out or in, and who was told.",
    },
    "Act": {
        dead: "Deliveries that were given up: look, try again.",
        quarantine: "Callbacks not understood: look, release.",
        replay: "Deliver events again, or to a sink that is new.",
        sinks: "Pause, resume, rename, discard a sink.",
        alerts: "Try whether alerts reach you.",
    },
    "Keep": {
        backup: "Copy the store while the relay runs.",
        restore: "Put such a copy back.",
        purge: "Delete what is older than its term.",
        erase: "Forget a contact.",
    },
}


class Commands(click.Group):
    """The edge at which what went wrong becomes one sentence."""

    def main(self, *args: Any, **options: Any) -> Any:
        _fill_in()
        _replace_what_cannot_be_shown()
        return super().main(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # `relay events list | head`: click ends without a word
            raise
        except (StoreError, PluginError, OSError) as error:
            raise click.ClickException(_sentence(error)) from error
        except (UnicodeEncodeError, orjson.JSONEncodeError):
            raise click.UsageError("something in what was given is not UTF-8 text") from None

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        for family, members in FAMILIES.items():
            with formatter.section(family):
                formatter.write_dl([(f"{each.name:<10}", says) for each, says in members.items()])


def _sentence(error: Exception) -> str:
    """What went wrong. The system's own errors name the file first, and no error number."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{os.fspath(error.filename)}: {error.strerror}"
    return str(error)


def _fill_in() -> None:
    """Open what is closed of the standard streams; else files would get their descriptors."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  it stays open


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


for members in FAMILIES.values():
    for command in members:
        main.add_command(command)
