"""The state of a HubSpot account, and what a test may turn."""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from stubs.hubspot_errors import Refusal, no_such_type, unscoped
from stubs.hubspot_schema import ASSOCIATIONS, EVENTS, GROUPS, KINDS, Field, Kind, portal
from stubs.hubspot_shelf import Shelf, iso

from relay.clock import SystemClock

RowChance = Callable[[dict[str, Any]], str | None]


class Account:
    """What the parts of the stub share.

    `fields`: properties by object and name, `groups` theirs. `events_known`: the properties of
    each custom event; those that are no plain text are in `event_fields`. `associations_known`:
    types by (from, to).
    `burst_most`, `oauth_burst_most` in ten seconds, `search_most` in one, `oauth_most` refreshes
    in ten. `api_used` of `api_most` calls of the day. `retry_after` (seconds, None: no header)
    goes with a 429, `migration` with a 477. `latency` in seconds, of every answer.
    `search_lag` in seconds: what was written since is not found.
    `multi_status`: False, and no 207 comes, as the 2026-09 specification has it.
    `merge_errors`: rows with the same error share an entry. `error_codes`: False, and
    `errors[].code` is absent. `all_errors`: False, and of several bad values one is told.
    `names_missing`: False, and a batch read does not say whom it has not found.
    `echo_traces`: False, and results do not say their trace id.
    `row_chance` is asked for the code of a row's failure, None for none.
    `rotate`: a refresh token works once. `lists`: hubspot_lists.RecordList by id. `lost`: custom
    events that got 204 and were not kept, by what was wrong with them.
    """

    def __init__(self, clock: Any = None, seed: int = 1) -> None:
        self.clock = clock or SystemClock()
        self.random = random.Random(seed)
        self.fields = portal()
        self.groups = {name: dict(groups) for name, groups in GROUPS.items()}
        self.events_known = {name: set(properties) for name, properties in EVENTS.items()}
        self.event_fields: dict[str, Field] = {}
        self.associations_known = {pair: dict(types) for pair, types in ASSOCIATIONS.items()}
        self.burst_most, self.oauth_burst_most = 190, 110
        self.search_most, self.oauth_most = 5, 20
        self.api_used, self.api_most = 0, 625_000
        self.retry_after: int | None = None
        self.migration = 3600
        self.latency = self.search_lag = 0.0
        self.multi_status = self.error_codes = self.echo_traces = self.rotate = True
        self.merge_errors = False
        self.all_errors = self.names_missing = True
        self.row_chance: RowChance = lambda _row: None
        self.shelves = {kind.name: Shelf() for kind in KINDS}
        self.events: list[dict[str, Any]] = []
        self.associations: list[dict[str, str]] = []
        self.lost: Counter[str] = Counter()
        self.lists: dict[str, Any] = {}

    def records(self, name: str) -> list[dict[str, Any]]:
        """Plain dictionaries with their `id`; also `events` and `associations`."""
        if name in {"events", "associations"}:
            return list(getattr(self, name))
        shelf = self.shelves[kind_of(name).name]
        return [{"id": record.id, **record.properties} for record in shelf.ordered()]

    def seed(self, name: str, properties: dict[str, str]) -> str:
        """A record that was there before, unchecked. Gives its id."""
        return self.shelves[kind_of(name).name].add(properties, self.clock.now()).id

    def delete(self, name: str, id_: str) -> None:
        """Somebody deletes a record in HubSpot."""
        self.shelves[kind_of(name).name].remove(id_)

    def new_day(self) -> None:
        """Midnight in the account's time zone."""
        self.api_used = 0

    def batch(
        self, results: list[dict[str, Any]], errors: list[dict[str, Any]] | None = None
    ) -> dict[str, Any]:
        """The answer to a batch; order tells nothing."""
        now = iso(self.clock.now())
        self.random.shuffle(results)
        told: dict[str, Any] = {"status": "COMPLETE", "results": results}
        told |= {"startedAt": now, "completedAt": now}
        if errors:
            self.random.shuffle(errors)
            told |= {"numErrors": len(errors), "errors": errors}
        return told


def kind_of(name: str) -> Kind:
    """Raises Refusal."""
    for kind in KINDS:
        if name in kind.names:
            return kind
    raise no_such_type(name)


def allow(scopes: frozenset[str], *wanted: str) -> None:
    """Any of these will do. Raises Refusal."""
    if not scopes.intersection(wanted):
        raise unscoped(list(wanted))


def refuse(message: str) -> Refusal:
    return Refusal(400, "VALIDATION_ERROR", message)
