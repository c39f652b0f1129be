"""`relay schema`: relay.yaml for editors."""

import click

from relay.cli import options
from relay.config.loader import Config
from relay.config.schema import text


@click.command()
@options.config
def schema(config: Config) -> None:
    """Print the JSON Schema of relay.yaml, with the options of every plugin found."""
    click.echo(text(config.registry), nl=False)
