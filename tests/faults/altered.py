"""A relay with values of its own changed: without what they are for, as a control, or in less time.

python -m altered relay.retention.FIRST=1 run …
"""

import importlib
import sys

from relay.cli import main


def alter(assignment: str) -> None:
    """The value is a number."""
    name, _, value = assignment.partition("=")
    module, _, attribute = name.rpartition(".")
    found = importlib.import_module(module)
    assert hasattr(found, attribute), name
    setattr(found, attribute, int(value) if value.isdigit() else float(value))


if __name__ == "__main__":
    while "=" in sys.argv[1]:
        alter(sys.argv.pop(1))
    main(sys.argv[1:])
