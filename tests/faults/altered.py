"""A relay with a value of its own changed, as a control: without what that protects from.

python -m altered relay.protocol.STOOD_STILL=inf run …
"""

import importlib
import sys

from relay.cli import main


def alter(assignment: str) -> None:
    """The value is a float."""
    name, _, value = assignment.partition("=")
    module, _, attribute = name.rpartition(".")
    found = importlib.import_module(module)
    assert hasattr(found, attribute), name
    setattr(found, attribute, float(value))


if __name__ == "__main__":
    alter(sys.argv.pop(1))
    main(sys.argv[1:])
