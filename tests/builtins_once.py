"""Keeps the built-in plugins of the first load for all loads of a test run.

The relay imports plugins anew for each load; for the built-in ones, whose files no test changes,
that is an eighth of a second of processor time, some hundred times over.
"""

from relay.config import plugins


def keep():
    """Import each built-in plugin once in this process."""
    folder = plugins.builtin_folder()
    import_anew = plugins.import_file
    kept = {}

    def import_file(path):
        if not path.is_relative_to(folder):
            return import_anew(path)
        if path not in kept:
            kept[path] = import_anew(path)
        return kept[path]

    plugins.import_file = import_file
