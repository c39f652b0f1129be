"""The release: which version of the relay this is."""

import importlib.metadata
from functools import cache


@cache
def version() -> str:
    """The installed version; "0" if it runs from a folder without installation."""
    try:
        return importlib.metadata.version("sumotext-relay")
    except importlib.metadata.PackageNotFoundError:
        return "0"
