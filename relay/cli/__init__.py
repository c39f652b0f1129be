"""The command `relay`: one file for each family of commands."""

from typing import Any

import click

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
from relay.plugins import PluginError
from relay.store import StoreError


class Commands(click.Group):
    """The edge at which what went wrong becomes one sentence."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # `relay events list | head`: click ends without a word
            raise
        except (StoreError, PluginError, OSError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sumotext-relay", message="%(version)s")
def main() -> None:
    """Take Sumotext's callbacks, keep them on disk, deliver them to your own systems.

    Exit status: 0 done, 1 failed, 2 wrong usage, 78 wrong configuration.
    """


for command in (
    run,
    check,
    setup,
    send,
    preview,
    status,
    events,
    dead,
    quarantine,
    replay,
    purge,
    erase,
    consent,
    sinks,
    alerts,
    plugins,
    service,
    test,
    backup,
    restore,
    doctor,
    schema,
):
    main.add_command(command)
