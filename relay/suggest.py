"""The nearest known name, for messages about a name that is not known."""

import difflib
from collections.abc import Iterable

CUTOFF = 0.6


def nearest(name: str, known: Iterable[str], cutoff: float = CUTOFF) -> str | None:
    """The known name that `name` was probably meant to be; None where nothing is near."""
    by_folded = {folded(word): word for word in known}
    found = difflib.get_close_matches(folded(name), by_folded, n=1, cutoff=cutoff)
    return by_folded[found[0]] if found else None


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean "csv"?`, or what there is to choose from, as the end of a sentence."""
    words = sorted(known)
    if match := nearest(name, words):
        return f'; did you mean "{match}"?'
    return f"; known are {', '.join(words)}" if words else ""


def folded(name: str) -> str:
    """`Max-Batch` and `max_batch` are as near as can be."""
    return name.casefold().replace("-", "_").replace(" ", "_")
