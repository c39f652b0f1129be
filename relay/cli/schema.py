"""`relay schema`: relay.yaml for editors."""

import click

from relay.cli import options
from relay.cli.output import print_json
from relay.config import Config
from relay.schema import schema_of


@click.command()
@options.config
def schema(config: Config) -> None:
    """Print the JSON Schema of relay.yaml, with the options of every plugin found."""
    print_json(schema_of(config.registry))
