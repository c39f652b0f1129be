"""The state of the writer in memory. It is the only one that changes the file."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

import apsw

from relay.clock import MICROSECONDS, Clock
from relay.event import Event
from relay.store import OPEN_STATES, TRANSITIONS, State
from relay.store.sqlite import rows

LATER_THAN_ALL = 1 << 62
LAST_SEQ = (
    "SELECT max(ifnull((SELECT max(seq) FROM events), 0),"
    " ifnull((SELECT value FROM meta WHERE name = 'last_seq'), 0))"
)
"""The highest that was ever given; its event may be gone."""


class InFlight(NamedTuple):
    """A delivery in flight."""

    contact: int
    urgent: bool


@dataclass(slots=True)
class WriterState:
    """A copy of small parts of the file; `load` reads it again after a rollback."""

    clock: Clock
    quarantine_size: int
    """Bytes of quarantined callbacks above which the oldest are dropped."""
    contact_key: bytes = b""
    last_seq: int = 0
    last_time: int = LATER_THAN_ALL
    """When deliveries were last claimed or settled, by the clock on the wall."""
    consent_sources: frozenset[str] = frozenset()
    """The sources to which any contact has ever said a word of consent."""
    sink_ids: dict[str, int] = field(default_factory=dict)
    sink_names: dict[int, str] = field(default_factory=dict)
    cursors: dict[int, int] = field(default_factory=dict)
    """sink -> the seq up to which each of its deliveries has a row; may be ahead of the file's"""
    routes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """route -> the sinks on it"""
    known_routes: dict[tuple[str, ...], int] = field(default_factory=dict)
    in_flight: dict[int, dict[int, InFlight]] = field(default_factory=lambda: defaultdict(dict))
    busy: dict[int, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    """sink -> contact -> how many of its deliveries are in flight"""
    busy_urgent: dict[int, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    """The same, of the urgent ones."""
    held: Counter[int] = field(default_factory=Counter)
    """sink -> deliveries that wait for a retry or are blocked"""
    blocked: Counter[int] = field(default_factory=Counter)
    """sink -> how many deliveries its last claim found blocked"""
    swapped: dict[int, bool] = field(default_factory=dict)
    """sink -> whether retries or new events came first the last time"""
    changes: dict[int, Counter[str]] = field(default_factory=dict)
    """sink -> how its counters change with this transaction"""
    quarantine_bytes: int | None = None
    """Bytes of all quarantined callbacks, or more; None until the first one comes"""
    notified: dict[str, bool] = field(default_factory=dict)
    """sink -> whether the new work of this transaction is urgent"""

    def load(self, connection: apsw.Connection) -> None:
        """Read everything from the file."""
        self.quarantine_bytes = None
        self.contact_key = rows.value(
            connection, "SELECT value FROM meta WHERE name = 'contact_key'"
        )
        self.last_seq = rows.value(connection, LAST_SEQ)
        sources = rows.every(connection, "SELECT DISTINCT source FROM consents")
        self.consent_sources = frozenset(source for (source,) in sources)
        found = rows.every(connection, "SELECT name, id, cursor FROM sinks")
        self.sink_ids = {name: number for name, number, _ in found}
        self.sink_names = {number: name for name, number, _ in found}
        self.cursors = {number: cursor for _, number, cursor in found}
        self._load_routes(connection)
        self.last_time = LATER_THAN_ALL
        self.in_flight.clear()
        self.busy.clear()
        self.busy_urgent.clear()
        for sink, seq, contact, urgent in rows.every(
            connection, "SELECT sink, seq, contact, urgent FROM deliveries WHERE state = 1"
        ):
            self.claim(sink, seq, contact, bool(urgent))
        self.held = Counter(
            dict(
                rows.every(
                    connection,
                    "SELECT sink, count(*) FROM deliveries WHERE state IN (2, 3) GROUP BY sink",
                )
            )
        )
        self.changes.clear()
        self.notified.clear()

    def now(self) -> int:
        """The time in microseconds since the epoch."""
        return int(self.clock.now() * MICROSECONDS)

    @property
    def any_consent(self) -> bool:
        return bool(self.consent_sources)

    def contact(self, source: str, contact: str) -> int:
        """The contact's number in the store: a keyed hash, 63 bits."""
        return self._hash(f"{source}\0{contact}")

    def contact_of(self, source: str, event: Event, copy_of: str | None) -> int:
        """The contact of an event that is to be stored.

        One without a contact waits for no other, so it is a contact by itself. When it is sent
        again it has another id, and must be found by its `dedup_key`.
        """
        if event.contact is not None:
            return self.contact(source, event.contact)
        return self.contact(source, f"\0{event.dedup_key or copy_of or event.id}")

    def text_hash(self, message: str | None) -> int:
        """A message's text as a number above 0: a keyed hash, 63 bits."""
        return self._hash(message or "") or 1

    def _hash(self, text: str) -> int:
        digest = blake2b(
            text.encode("utf-8", "surrogatepass"), digest_size=8, key=self.contact_key
        ).digest()
        return int.from_bytes(digest, "big") >> 1

    def sink(self, connection: apsw.Connection, name: str) -> int:
        """The sink's number, given at its first delivery."""
        number = self.sink_ids.get(name)
        if number is None:
            number, cursor = rows.every(
                connection,
                "INSERT INTO sinks (name, cursor) SELECT ?, ifnull(max(seq), 0) FROM events"
                " RETURNING id, cursor",
                (name,),
            )[0]
            self.sink_ids[name] = number
            self.sink_names[number] = name
            self.cursors[number] = cursor
        return number

    def route(self, connection: apsw.Connection, names: tuple[str, ...]) -> int:
        """The number of a set of sinks, given when it first occurs."""
        route = self.known_routes.get(names)
        if route is None:
            sinks = tuple(sorted(self.sink(connection, name) for name in names))
            known = [route for route, others in self.routes.items() if others == sinks]
            route = known[0] if known else self._new_route(connection, sinks)
            self.known_routes[names] = route
        return route

    def _new_route(self, connection: apsw.Connection, sinks: tuple[int, ...]) -> int:
        route = max(self.routes) + 1
        for sink in sinks:
            connection.execute("INSERT INTO routes VALUES (?, ?)", (route, sink))
        self.routes[route] = sinks
        return route

    def _load_routes(self, connection: apsw.Connection) -> None:
        self.known_routes.clear()
        self.routes = {0: ()}
        for route, sink in rows.every(connection, "SELECT route, sink FROM routes ORDER BY 1, 2"):
            self.routes[route] = (*self.routes.get(route, ()), sink)

    def claim(self, sink: int, seq: int, contact: int, urgent: bool) -> None:
        """Note that a delivery is in flight."""
        self.in_flight[sink][seq] = InFlight(contact, urgent)
        self.busy[sink][contact] += 1
        if urgent:
            self.busy_urgent[sink][contact] += 1

    def release(self, sink: int, seq: int) -> InFlight | None:
        """Take a delivery out of flight; None if it was not."""
        flight = self.in_flight[sink].pop(seq, None)
        if flight is not None:
            _decrement(self.busy[sink], flight.contact)
            if flight.urgent:
                _decrement(self.busy_urgent[sink], flight.contact)
        return flight

    def count(self, sink: int, old: State | None, new: State, number: int = 1) -> None:
        """Note that deliveries went from one state to another. Raises ValueError if none may."""
        if new not in TRANSITIONS[old]:
            raise ValueError(f"no delivery goes from {old!r} to {new!r}")
        change = self.changes.setdefault(sink, Counter())
        if old is not None:
            change[_counter(old)] -= number
        change[_counter(new)] += number
        self.held[sink] += number * (_is_held(new) - (old is not None and _is_held(old)))

    def forget(self, sink: int, state: State, number: int) -> None:
        """Note that deliveries are no longer the sink's."""
        self.changes.setdefault(sink, Counter())[_counter(state)] -= number
        self.held[sink] -= number * _is_held(state)

    def swap(self, sink: int) -> bool:
        """True and False in turn."""
        self.swapped[sink] = not self.swapped.get(sink, True)
        return self.swapped[sink]

    def notify(self, sink: int, *, urgent: bool = False) -> None:
        """Note that the sink has new work."""
        name = self.sink_names[sink]
        self.notified[name] = self.notified.get(name, False) or urgent

    def write_counts(self, connection: apsw.Connection) -> None:
        """Bring the counters in the file up to date; called inside each transaction."""
        if not self.changes:
            return
        changes = [
            (sink, change["pending"], change["delivered"], change["dead"], self.cursors[sink])
            for sink, change in self.changes.items()
        ]
        connection.execute(
            "UPDATE sinks SET pending = pending + (change.value ->> 1),"
            " delivered = delivered + (change.value ->> 2), dead = dead + (change.value ->> 3),"
            " cursor = change.value ->> 4"
            " FROM json_each(?) AS change WHERE sinks.id = change.value ->> 0",
            (rows.array(changes),),
        )
        self.changes.clear()


def _decrement(counter: Counter[int], key: int) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]


def _counter(state: State) -> str:
    if state in OPEN_STATES:
        return "pending"
    return {State.DELIVERED: "delivered", State.DEAD: "dead"}.get(state, "discarded")


def _is_held(state: State) -> bool:
    return state in (State.WAITING, State.BLOCKED)
