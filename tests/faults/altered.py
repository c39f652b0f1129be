"""A relay with values of its own changed: without what they are for, as a control, or in less time.

python -m altered relay.retention.FIRST=1 plugins.sumotext.LONGEST_WORD=9 run …
"""

import importlib
import sys

from relay.cli import main
from relay.config import plugins


def alter(assignment: str) -> None:
    """The value is a number."""
    name, _, text = assignment.partition("=")
    module, _, attribute = name.rpartition(".")
    value = int(text) if text.isdigit() else float(text)
    folder, _, plugin = module.partition(".")
    if folder == "plugins":
        alter_plugin(plugin, attribute, value)
    else:
        put(importlib.import_module(module), attribute, value)


def alter_plugin(name: str, attribute: str, value: float) -> None:
    """Plugins are imported by their path, each time that relay.yaml is read."""
    import_file = plugins.import_file

    def altered(path):
        module = import_file(path)
        if plugins.plugin_name(path) == name:
            put(module, attribute, value)
        return module

    plugins.import_file = altered


def put(module: object, attribute: str, value: float) -> None:
    assert hasattr(module, attribute), attribute
    setattr(module, attribute, value)


if __name__ == "__main__":
    while "=" in sys.argv[1]:
        alter(sys.argv.pop(1))
    main(sys.argv[1:])
