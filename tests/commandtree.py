"""Every command of `relay` by its name. The command line itself imports each when it is used."""

import click

from relay.cli import main

CONTEXT = click.Context(main)
COMMANDS = {name: main.get_command(CONTEXT, name) for name in main.list_commands(CONTEXT)}
GROUPS = {name: each for name, each in COMMANDS.items() if isinstance(each, click.Group)}
