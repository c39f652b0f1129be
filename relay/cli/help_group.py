"""A family of commands, whose help has each one's first sentence whole."""

import click

WHOLE = 1000
"""Characters; click's own help cuts a sentence to what is left of its line."""


class Family(click.Group):
    """`relay dead`, say."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        members = [(name, self.commands[name]) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, each.get_short_help_str(WHOLE)) for name, each in members])
