"""Gives the short form of each fault test its marker, and a time limit."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
TIMEOUT = 180
"""Seconds: they start processes, which takes a busy machine many times as long as another."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """`make test` leaves the short forms out but for a smoke test of each kind; CI runs them."""
    for item in items:
        marked = any(map(item.get_closest_marker, ("faults", "smoke")))
        if item.path.parent == FOLDER and not marked:
            item.add_marker("short")
        limited = any(map(item.get_closest_marker, ("faults", "timeout")))
        if item.path.parent == FOLDER and not limited:
            item.add_marker(pytest.mark.timeout(TIMEOUT))
