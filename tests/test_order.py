"""Whatever happens, the store keeps its promises of order: random histories against a model."""

import contextlib
import random
from collections import defaultdict
from dataclasses import dataclass

import apsw
import pytest
from arrivals import arrival, mobile

from relay.redact import NumberMatcher
from relay.store import (
    OPEN_STATES,
    TRANSITIONS,
    PurgeCutoffs,
    Settlement,
    SinkCounts,
    State,
    StoreError,
    StoreFull,
)
from relay.store.sqlite import SqliteStore, purge
from relay.store.sqlite import claim as claims
from relay.store.sqlite.operator import discard
from relay.store.sqlite.settle import MOST_LONE_CRASHES, put_back_all
from relay.store.sqlite.state import WriterState

SECOND = 1_000_000
CONTACTS = 3
STEPS = 60
ORDERED = {"crm": True, "archive": True, "bulk": False}
GONE = "gone"
"""A sink that is no longer in relay.yaml: its deliveries are only ever given to another."""
ENDS = (State.DELIVERED, State.DELIVERED, State.WAITING, State.WAITING, State.DEAD, None)
"""None is a claim that is put back."""
ENDED = (State.DELIVERED, State.DEAD, State.DISCARDED)
ACTIONS = {
    "add": 8,
    "claim": 14,
    "settle": 14,
    "wait": 3,
    "set_clock_back": 1,
    "replay": 1.5,
    "revive": 1,
    "copy": 1,
    "release": 0.7,
    "claim_after_crash": 0.7,
    "crash": 0.7,
    "restart": 0.5,
    "discard": 0.5,
    "rename": 0.5,
    "spoil": 0.7,
    "purge": 3,
    "erase": 1,
}


@dataclass
class Happened:
    """An event. `rank` where it stands in its contact's order, as in the store."""

    contact: int
    consent: str | None
    id: str
    rank: int
    late: bool
    received: int


@dataclass
class Delivery:
    """Its state is PENDING as long as it is open, whatever it waits for."""

    state: State = State.PENDING
    due: int = 0
    put_off: int = 0
    """When it was told to wait until then."""
    attempts: int = 0
    landed: bool = False
    in_flight_at_crash: bool = False
    lone_crashes: int = 0
    again: bool = False
    """It is a last word that goes once more, behind what was older."""


class History:
    """Does random things to a store, and checks each claim against what it knows."""

    def __init__(self, store, clock, seed: int) -> None:
        self.store = store
        self.clock = clock
        self.random = random.Random(seed)
        self.events: dict[int, Happened] = {}
        self.purged: dict[int, Happened] = {}
        self.gone: dict[str, dict[int, Delivery]] = defaultdict(dict)
        """Deliveries of what was purged."""
        self.quarantined: list[int] = []
        """When those callbacks were received that are in quarantine."""
        self.sinks: dict[str, dict[int, Delivery]] = defaultdict(dict)
        self.landed: dict[str, list[int]] = defaultdict(list)

    async def step(self) -> None:
        (action,) = self.random.choices(list(ACTIONS), list(ACTIONS.values()))
        await getattr(self, action)()

    # what arrives

    async def add(self) -> None:
        for _ in range(self.random.choice([1, 1, 1, 4])):
            new, contact, consent = self.something()
            await self.store.add(new)
            self.note(new, contact, consent)

    async def copy(self) -> None:
        if not self.events:
            return
        first = self.random.choice(list(self.events.values()))
        new, *_ = self.something(first.contact, first.consent, copy_of=first.id)
        await self.store.add(new)
        self.note(new, first.contact, first.consent, rank=first.rank)

    async def release(self) -> None:
        """A callback is quarantined, then others come, then it is released."""
        new, contact, consent = self.something()
        kept = await self.store.quarantine(new.callback, 422, "no kind")
        self.quarantined.append(new.callback.received)
        await self.wait()
        await self.add()
        if self.random.random() < 0.3:
            await self.purge()
        await self.store.release(kept, [new])
        self.quarantined.pop()
        last = self.last_word(contact)
        weighs = self.opted_out(contact) or (last and consent)
        passed = weighs and self.ever()[last].received > new.callback.received
        self.note(new, contact, consent, rank=last - 1 if passed else None)

    def something(self, contact=None, consent=None, **options):
        """An arrival, and whose it is; it goes to some of the sinks, with errors now and then."""
        if contact is None:
            contact = self.random.randrange(CONTACTS)
            consent = self.random.choice([None, None, None, None, "opt_in", "opt_out"])
        sinks = [name for name in (*ORDERED, GONE) if self.random.random() < 0.6]
        errors = {name: "when: no such name" for name in sinks if self.random.random() < 0.1}
        options |= {"sinks": sinks, "errors": errors, "received": self.now()}
        return arrival(contact, consent=consent, **options), contact, consent

    def note(self, new, contact, consent, rank=None) -> None:
        seq = self.last_seq + 1
        late = rank is not None
        received = new.callback.received
        self.events[seq] = Happened(
            contact, consent, new.event.id, rank if late else seq, late, received
        )
        for name, error in new.deliveries.items():
            self.sinks[name][seq] = Delivery(State.DEAD if error else State.PENDING)

    # claims

    async def claim(self, sink=None) -> None:
        sink = sink or self.random.choice(list(ORDERED))
        urgent = self.random.choice([None, True, False])
        limit = self.random.randint(1, 5)
        self.wait_anew()
        claimed = await self.store.claim(sink, limit, ordered=ORDERED[sink], urgent=urgent)
        for claim in claimed.claims:
            assert urgent in (None, claim.urgent)
            assert self.sinks[sink][claim.seq].due <= self.now(), "it was not due"
            self.check_order(claim)
            self.check(claim)
        for claim in claimed.claims:
            self.take(claim)
        contacts = [self.events[claim.seq].contact for claim in claimed.claims]
        assert len(contacts) == len(set(contacts)), "one contact twice in a batch"
        if urgent is None and not claimed.more and ORDERED[sink]:
            self.check_due(sink, claimed.due)

    def wait_anew(self) -> None:
        """Nothing waits longer than it was told to, though the clock was set back since."""
        for delivery in (each for sink in self.sinks.values() for each in sink.values()):
            if delivery.put_off > self.now() < delivery.due:
                delivery.due -= delivery.put_off - self.now()
                delivery.put_off = self.now()

    def check_order(self, claim) -> None:
        sink, contact = self.sinks[claim.sink], self.events[claim.seq].contact
        older = [
            seq
            for seq in sorted(sink)
            if seq < claim.seq
            and sink[seq].state == State.PENDING
            and self.events[seq].contact == contact
        ]
        if older and ORDERED[claim.sink]:
            assert claim.urgent, f"{claim.seq} went before {older}"
            assert sink[older[0]].due > self.now(), f"the opt-out {claim.seq} passed a due {older}"

    def check(self, claim) -> None:
        sink, event = self.sinks[claim.sink], self.events[claim.seq]
        assert self.state(claim.sink, claim.seq) == State.PENDING, "it does not go there"
        assert claim.attempt == sink[claim.seq].attempts + 1
        assert (claim.event.id, claim.event.data["mobile"]) == (event.id, mobile(event.contact))
        assert claim.opted_out == self.opted_out(event.contact)
        if claim.urgent or ORDERED[claim.sink]:
            assert event.contact not in self.busy(claim.sink), "one contact twice in flight"
        if ORDERED[claim.sink] and not event.late and not sink[claim.seq].again:
            later = any(
                delivery.landed and seq > claim.seq and self.events[seq].contact == event.contact
                for seq, delivery in sink.items()
            ) or any(
                delivery.landed and seq > claim.seq and self.purged[seq].contact == event.contact
                for seq, delivery in self.gone[claim.sink].items()
            )
            last_word = claim.opted_out and claim.seq == self.last_word(event.contact)
            assert claim.stale == (later and not last_word), f"stale of {claim.seq}"

    def check_due(self, sink: str, due: int | None) -> None:
        """Nothing is left that may go now, and `due` tells when there is something."""
        busy = self.busy(sink)
        heads: dict[int, int] = {}
        for seq, delivery in sorted(self.sinks[sink].items()):
            contact = self.events[seq].contact
            if delivery.state == State.PENDING and contact not in busy:
                heads.setdefault(contact, delivery.due)
        if heads:
            assert self.now() < due <= min(heads.values())

    async def claim_after_crash(self) -> None:
        sink = self.random.choice(list(ORDERED))
        for claim in await self.store.claim_after_crash(sink, self.random.randint(1, 3)):
            assert self.sinks[sink][claim.seq].in_flight_at_crash
            self.check(claim)
            self.take(claim)

    def take(self, claim) -> None:
        delivery = self.sinks[claim.sink][claim.seq]
        delivery.state = State.IN_FLIGHT
        delivery.attempts += 1

    async def settle(self, ends=ENDS) -> None:
        flights = [(sink, seq) for sink in ORDERED for seq in self.flying(sink)]
        if not flights:
            return
        sink, seq = self.random.choice(flights)
        state = self.random.choice(ends)
        due = self.now() + self.random.choice([-1, 1, 30, 3600]) * SECOND
        await self.store.settle(
            [
                Settlement.put_back(sink, seq)
                if state is None
                else Settlement(sink, seq, state, due=due)
            ]
        )
        delivery = self.sinks[sink][seq]
        delivery.in_flight_at_crash = False
        if state is None:
            self.put_back(delivery)
        elif state == State.WAITING:
            delivery.state, delivery.due, delivery.put_off = State.PENDING, due, self.now()
        else:
            delivery.state = state
        if state == State.DELIVERED:
            delivery.landed = True
            self.landed[sink].append(seq)
            self.expect_again(sink, seq)

    def put_back(self, delivery: Delivery) -> None:
        delivery.state, delivery.due = State.PENDING, 0
        delivery.attempts -= 1

    def expect_again(self, sink: str, seq: int) -> None:
        """A last word that was delivered is due once more behind what is older and landed.

        An opt-in only behind an opt-out.
        """
        event = self.events[seq]
        last = self.last_word(event.contact)
        again = event.rank < last != seq and (
            self.opted_out(event.contact) or event.consent == "opt_out"
        )
        if again and self.state(sink, last) == State.DELIVERED:
            self.sinks[sink][last] = Delivery(landed=True, again=True)
        assert not (again and last in self.purged), f"the last word {last} was still needed"

    # what people do

    async def wait(self) -> None:
        await self.clock.advance(self.random.choice([1, 10, 40, 4000]))

    async def set_clock_back(self) -> None:
        self.clock.jump(-self.random.choice([1, 40, 4000]))

    async def replay(self) -> None:
        sink, seqs = self.random.choice(list(ORDERED)), self.some(list(self.events))
        made = [seq for seq in seqs if self.state(sink, seq) in (None, *ENDED)]
        assert await self.store.replay(sink, seqs) == len(made)
        self.renew(sink, made)

    async def revive(self) -> None:
        sink = self.random.choice(list(ORDERED))
        seqs = self.some([s for s in self.sinks[sink] if self.state(sink, s) == State.DEAD])
        assert await self.store.retry_dead(sink, seqs) == len(seqs)
        self.renew(sink, seqs)

    def renew(self, sink: str, seqs) -> None:
        for seq in seqs:
            before = self.sinks[sink].get(seq, Delivery())
            self.sinks[sink][seq] = Delivery(
                landed=before.landed, in_flight_at_crash=before.in_flight_at_crash
            )

    async def discard(self) -> None:
        """A few dead ones, or all that are dead or open."""
        sink = self.random.choice([*ORDERED, GONE])
        seqs = self.random.choice([None, self.some(list(self.events))])
        states = (State.DEAD,) if seqs is not None else (State.DEAD, State.PENDING)
        given_up = [
            delivery
            for seq, delivery in self.sinks[sink].items()
            if delivery.state in states and (seqs is None or seq in seqs)
        ]
        assert await self.store.discard(sink, seqs) == len(given_up)
        for delivery in given_up:
            delivery.state = State.DISCARDED

    async def rename(self) -> None:
        """Of what both have had, the heir keeps its own."""
        gone, heir = self.sinks[GONE], self.random.choice(list(ORDERED))
        if not gone:
            return
        given = [seq for seq in gone if gone[seq].state in (State.PENDING, State.DEAD)]
        new = [seq for seq in given if seq not in self.sinks[heir]]
        assert await self.store.rename_sink(GONE, heir) == len(new)
        for seq in given:
            if seq in new:
                self.sinks[heir][seq] = gone.pop(seq)
                self.sinks[heir][seq].due = 0
            else:
                gone[seq].state = State.DISCARDED

    async def purge(self) -> None:
        now = self.now()
        terms = [self.random.choice([-1, -1, -1, 10, 4000]) * SECOND for _ in range(2)]
        before = PurgeCutoffs(now - terms[0], now - terms[1], 0, now)
        going = self.going(before)
        steps = [step async for step in self.store.purge(before, dry_run=True)]
        assert sum(step.events for step in steps) == len(going)
        steps = [step async for step in self.store.purge(before)]
        assert sum(step.events for step in steps) == len(going)
        assert await self.store.event_count() == len(self.events) - len(going)
        self.forget(going)

    def going(self, before: PurgeCutoffs) -> list[int]:
        """The events whose term is over, but for a last word that what is left may need."""
        going: list[int] = []
        left: set[int] = set()
        for seq, event in sorted(self.events.items()):
            last_word = seq == self.last_word(event.contact)
            needed = last_word and (
                event.contact in left
                or any(received < event.received for received in self.quarantined)
                or any(
                    other > seq and copy.contact == event.contact and copy.rank < seq
                    for other, copy in self.events.items()
                )
            )
            if needed or not self.is_over(seq, before):
                left.add(event.contact)
            else:
                going.append(seq)
        return going

    async def erase(self) -> None:
        """Forget a contact, unless an opt-out still has to arrive; what is in flight goes on."""
        contact = self.random.randrange(CONTACTS)
        matcher = NumberMatcher(mobile(contact))
        rows = await self.store.find_contact(matcher)
        mine = [seq for seq, event in self.events.items() if event.contact == contact]
        assert sorted(rows.events) == mine
        last = self.last_word(contact)
        states = {sink: self.state(sink, last) for sink in self.sinks}
        missing = {sink for sink, state in states.items() if state in (*OPEN_STATES, State.DEAD)}
        assert {sink for sink, *_ in rows.waiting} == (
            missing if self.opted_out(contact) else set()
        )
        if rows.waiting:
            return
        found = [sink[seq] for sink in self.sinks.values() for seq in mine if seq in sink]
        flying = sum(delivery.state == State.IN_FLIGHT for delivery in found)
        assert await self.store.discard_open(rows) == flying
        for delivery in found:
            if delivery.state == State.PENDING:
                delivery.state = State.DISCARDED
        if flying == 0:
            assert (await self.store.delete_contact(rows, matcher))["events"] == len(mine)
            self.forget(mine)

    def forget(self, mine: list[int]) -> None:
        """They are gone; what they were is known for what comes after them."""
        for seq in mine:
            self.purged[seq] = self.events.pop(seq)
            for sink, deliveries in self.sinks.items():
                if delivery := deliveries.pop(seq, None):
                    self.gone[sink][seq] = delivery

    def is_over(self, seq: int, before: PurgeCutoffs) -> bool:
        states = {sink[seq].state for sink in self.sinks.values() if seq in sink}
        if not states.isdisjoint(OPEN_STATES):
            return False
        terms = [before.dead] if State.DEAD in states else []
        if states != {State.DEAD}:
            terms.append(before.delivered)
        return self.events[seq].received < min(terms)

    # what goes wrong

    async def crash(self) -> None:
        flights = self.flights()
        await self.check_transitions()
        await self.store.close(clean=False)
        await self.reopen()
        for flight in flights:
            self.put_back(flight)
            flight.in_flight_at_crash = True
            flight.lone_crashes += len(flights) == 1
            if flight.lone_crashes == MOST_LONE_CRASHES:
                flight.state, flight.in_flight_at_crash = State.DEAD, False

    async def restart(self) -> None:
        flights = self.flights()
        await self.check_transitions()
        await self.store.close()
        await self.reopen()
        for flight in flights:
            self.put_back(flight)
            flight.in_flight_at_crash = False

    async def reopen(self) -> None:
        self.store = await SqliteStore.open(self.store.database.path, clock=self.clock)
        await record_transitions(self.store)
        self.wait_anew()

    async def spoil(self) -> None:
        """Beside other work, some fails that has changed a lot already; or the disk is full."""
        error = self.random.choice([RuntimeError, apsw.FullError])

        def fail(connection: apsw.Connection, writer: WriterState) -> None:
            put_back_all(connection, writer)
            discard(connection, writer, "crm", None)
            writer.sink(connection, "never")
            raise error("spoilt")

        spoilt = self.store.database.write(fail)
        with contextlib.suppress(StoreFull):
            await self.add()
        with pytest.raises(StoreError):
            await spoilt

    # the end

    async def drain(self) -> None:
        """Let all that is open land."""
        for sink in ORDERED:
            for _ in range(2000):
                if not self.some_left(sink):
                    break
                await self.claim(sink)
                while self.flights():
                    await self.settle((State.DELIVERED,))
                await self.clock.advance(40)
            else:
                raise AssertionError(f"stuck: {self.sinks[sink]}")

    async def check_transitions(self) -> None:
        """Whatever the SQL has done, each delivery went from a state only to one that follows."""
        made = TRANSITIONS[None] | TRANSITIONS[State.PENDING]
        for old, new in await transitions(self.store):
            assert State(new) in (made if old is None else TRANSITIONS[State(old)]), (old, new)

    async def check_counts(self) -> None:
        counts = await self.store.sink_counts()
        for sink, deliveries in self.sinks.items():
            states = [delivery.state for delivery in deliveries.values()]
            pending = states.count(State.PENDING) + states.count(State.IN_FLIGHT)
            gone = [delivery.state for delivery in self.gone[sink].values()]
            landed = (states + gone).count(State.DELIVERED)
            there = SinkCounts(pending, landed, states.count(State.DEAD))
            assert counts.get(sink, SinkCounts()) == there

    def check_last_words(self) -> None:
        """What a sink heard last, of what the contact said until then, is the last word.

        Behind an opt-in may stand what says nothing against it.
        """
        for contact in range(CONTACTS):
            last = self.last_word(contact)
            for sink, landed in self.landed.items():
                heard = (self.sinks[sink] | self.gone[sink]).get(last, Delivery())
                if last and heard.state == State.DELIVERED:
                    mine = [e for e in map(self.ever().get, landed) if e.contact == contact]
                    if not self.opted_out(contact):
                        mine = [e for e in mine if e.consent == "opt_out" or e.rank == last]
                    # a copy of the last word, which has its rank, is as good
                    assert [e.rank for e in mine if e.rank <= last][-1] == last

    # what it knows

    def now(self) -> int:
        return int(self.clock.now() * SECOND)

    def some(self, seqs: list[int]) -> list[int]:
        return self.random.sample(seqs, min(len(seqs), self.random.choice([1, 1, 5])))

    def state(self, sink: str, seq: int) -> State | None:
        delivery = self.sinks[sink].get(seq)
        return None if delivery is None else delivery.state

    def some_left(self, sink: str) -> bool:
        return any(delivery.state in OPEN_STATES for delivery in self.sinks[sink].values())

    def flying(self, sink: str) -> list[int]:
        return [seq for seq in self.sinks[sink] if self.state(sink, seq) == State.IN_FLIGHT]

    def flights(self) -> list[Delivery]:
        return [self.sinks[sink][seq] for sink in ORDERED for seq in self.flying(sink)]

    def busy(self, sink: str) -> set[int]:
        return {self.events[seq].contact for seq in self.flying(sink)}

    def ever(self) -> dict[int, Happened]:
        return self.events | self.purged

    @property
    def last_seq(self) -> int:
        return max(self.ever(), default=0)

    def last_word(self, contact: int) -> int:
        """The seq of the contact's last word; 0 without one."""
        return max(
            (
                seq
                for seq, event in self.ever().items()
                if event.contact == contact and event.consent and not event.late
            ),
            default=0,
        )

    def opted_out(self, contact: int) -> bool:
        last = self.last_word(contact)
        return last > 0 and self.ever()[last].consent == "opt_out"


@pytest.mark.parametrize("seed", range(36))  # each of the nine ways four times
async def test_random_histories_keep_the_order(tmp_path, clock, seed, monkeypatch):
    monkeypatch.setattr(claims, "SCAN", (1, 3, claims.SCAN)[seed % 3])
    monkeypatch.setattr(purge, "STEP", (1, 2, purge.STEP)[seed // 3 % 3])
    await live(tmp_path / "relay.db", clock, seed)


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(60, 1060))
async def test_a_thousand_random_histories(tmp_path, clock, seed, monkeypatch):
    await test_random_histories_keep_the_order(tmp_path, clock, seed, monkeypatch)


async def live(path, clock, seed: int) -> None:
    """One history, to its end."""
    store = await SqliteStore.open(path, clock=clock)
    await record_transitions(store)
    history = History(store, clock, seed)
    for _ in range(STEPS):
        await history.step()
    await history.check_counts()
    await history.drain()
    await history.crash()
    await history.check_counts()
    history.check_last_words()
    await history.store.close()


RECORD = """
CREATE TEMP TABLE transitions (old, new);
CREATE TEMP TRIGGER inserted AFTER INSERT ON main.deliveries BEGIN
    INSERT INTO transitions VALUES (NULL, new.state);
END;
CREATE TEMP TRIGGER updated AFTER UPDATE OF state ON main.deliveries
WHEN old.state != new.state BEGIN
    INSERT INTO transitions VALUES (old.state, new.state);
END;
"""


async def record_transitions(store) -> None:
    """Have the database itself record how the states of deliveries change.

    A delivery whose first row is in flight or blocked was pending without a row.
    """
    await store.database.write(lambda db, _: db.execute(RECORD).fetchall())


async def transitions(store) -> list[tuple[int | None, int]]:
    """The pairs of states that were recorded."""
    seen = "SELECT DISTINCT old, new FROM transitions"
    return await store.database.write(lambda db, _: db.execute(seen).fetchall())
