"""Scopes: what the key or app may do, asked for each feature that the options use.

A request without a record in it writes nothing, and HubSpot refuses it for a missing scope before
it looks at what it holds.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from .errors import SCOPE_ADVICE
from .options import COMMUNICATIONS, Options
from .paths import Paths
from .session import Session

NO_RECORDS: dict[str, Any] = {"inputs": []}


class Need(NamedTuple):
    """What is to be allowed, as a clause of a sentence, and where it is done."""

    what: str
    path: str


def needs(options: Options, paths: Paths) -> Iterator[Need]:
    """What the features of these options do."""
    kind, activity = options.object, options.activity
    yield Need(f"{kind} are written", paths.objects(kind, "batch/upsert"))
    if options.match != ["key"] or options.only_if_empty or options.consent or activity:
        yield Need(f"{kind} are read", paths.objects(kind, "batch/read"))
    if activity and activity.object:
        own = activity.object.type
        yield Need(f"{own} are written", paths.objects(own, "batch/upsert"))
        yield Need(f"{own} are tied to {kind}", paths.associations(own, kind))
    if activity and activity.communication:
        yield Need("text messages are logged", paths.objects(COMMUNICATIONS, "batch/create"))
    if activity and activity.event:
        yield Need("custom events are sent", paths.events())


async def missing(session: Session, options: Options) -> list[str]:
    """A line for each scope that is missing, or for several of which one would do."""
    found: dict[str, str] = {}
    for need in needs(options, session.paths):
        problem = (await session.post(need.path, NO_RECORDS)).problem
        if problem is None:
            continue
        if problem.status is None:
            break  # no answer: what is asked next tells why
        if problem.scopes:
            found.setdefault(" or ".join(problem.scopes), need.what)
    return [
        f"the scope {scope} is missing, with which {what}; {SCOPE_ADVICE}"
        for scope, what in found.items()
    ]
