"""Checks of the sinks: whether each delivers, and whether its other side would take what comes.

The running service is asked if this command cannot read a sink's secrets.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from relay.account import Accounts
from relay.config.loader import Config, LocatedIssue
from relay.delivery import crashes, manager
from relay.delivery.classify import split_notices
from relay.doctor import Finding, ok, problem, warning

Ask = Callable[[list[str]], Mapping[str, list[str]]]
"""Has the service check its sinks of these names; by the names, what is wrong."""


def halted(status: Mapping[str, Any] | None) -> Iterator[Finding]:
    """What the service says of its sinks by itself."""
    for name, sink in (status or {}).get("sinks", {}).items():
        since = f" since {_second(sink['since'])}" if "since" in sink else ""
        subject, why = f"sink {name}", f"{sink['state']}{since}: {sink.get('reason')}"
        match sink["state"]:
            case "paused" | "held":
                yield problem(subject, why, f"mend the cause, then relay sinks resume {name}")
            case "parked":
                yield warning(subject, why, "it is tried again by itself")
            case "running" if "last_error" in sink:
                failed = sink["last_error"]
                text = f"its deliveries fail since {_second(failed['since'])}: {failed['error']}"
                yield warning(subject, text, "they are tried again by themselves")
            case "orphaned":
                text = f"it has gone from relay.yaml, with {sink['pending']} deliveries pending"
                yield warning(subject, text, f"relay sinks rename {name} NEW, or discard {name}")


def _second(time: str) -> str:
    """RFC 3339 text to the second."""
    return f"{time[:19]}Z"


def checked(
    config: Config,
    unfilled: Iterable[LocatedIssue],
    accounts: Accounts,
    ask: Ask | None,
    status: Mapping[str, Any] | None = None,
) -> Iterator[Finding]:
    """The findings of the sinks' `check`. `ask` is None without a running service.

    The code of a sink that the service holds is not run here either.
    """
    missing = _missing(unfilled)
    states = (status or {}).get("sinks", {})
    held = {name for name, sink in states.items() if sink["state"] == "held"}
    enabled = [s for s in config.sinks.values() if s.enabled and s.name not in held]
    known = [sink for sink in enabled if sink.name not in missing]
    for name, found in crashes.run_watched(manager.check_sinks(known, accounts)).items():
        yield from _told(name, found, "it is well")
    unknown = [sink.name for sink in enabled if sink.name in missing]
    if unknown and ask:
        for name, found in ask(unknown).items():
            yield from _told(name, found, "it is well, says the relay, which knows its secrets")
        return
    for name in unknown:
        text = f"it was not asked, as {missing[name]}"
        yield warning(f"sink {name}", text, "start the relay, which knows it: it is asked then")


def _missing(unfilled: Iterable[LocatedIssue]) -> dict[str, str]:
    """The reasons by sink why this command cannot read all of its settings."""
    places = [(each.path.split("."), each.message) for each in unfilled]
    return {place[1]: why for place, why in places if place[0] == "sinks" and len(place) > 1}


def _told(name: str, found: list[str], well: str) -> Iterator[Finding]:
    problems, notices = split_notices(found)
    if manager.NOT_ASKED in notices:
        notices.remove(manager.NOT_ASKED)
        well = manager.NOT_ASKED
    for each in problems:
        yield problem(f"sink {name}", each, f"mend it; relay setup {name} may do it")
    if not problems:
        yield ok(f"sink {name}", well)
    for each in notices:
        yield warning(f"sink {name}", each, f"relay setup {name} may do it")
