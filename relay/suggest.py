"""Suggestions: the nearest known name, for messages about an unknown name."""

import difflib
from collections.abc import Iterable

CUTOFF = 0.6


def nearest(name: str, known: Iterable[str], cutoff: float = CUTOFF) -> str | None:
    """The known name nearest to `name`; None if none is near."""
    by_folded = {folded(word): word for word in known}
    found = difflib.get_close_matches(folded(name), by_folded, n=1, cutoff=cutoff)
    return by_folded[found[0]] if found else None


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of a sentence: `; did you mean "csv"?`, or else all known names."""
    words = sorted(known)
    if match := nearest(name, words):
        return f'; did you mean "{match}"?'
    return f"; known are {', '.join(words)}" if words else ""


def folded(name: str) -> str:
    """The name with its case, hyphens and spaces folded, as `max_batch` for `Max-Batch`."""
    return name.casefold().replace("-", "_").replace(" ", "_")
