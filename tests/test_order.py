"""Whatever happens, the store keeps its promises of order: random histories against a model."""

import random

import pytest
from arrivals import arrival, mobile

from relay.sqlite import SqliteStore, claims
from relay.store import OPEN_STATES, Settlement, State

SECOND = 1_000_000
CONTACTS = 3
STEPS = 60
ENDS = (State.DELIVERED, State.DELIVERED, State.WAITING, State.WAITING, State.DEAD, State.PENDING)


class History:
    """Does random things to a store, and checks each claim against what it knows."""

    def __init__(self, store, clock, seed: int) -> None:
        self.store = store
        self.clock = clock
        self.random = random.Random(seed)
        self.added = 0
        self.events: dict[int, tuple[int, str | None]] = {}
        self.open: dict[int, tuple[State, int]] = {}
        self.flying: dict[int, object] = {}
        self.landed: list[int] = []
        self.dead: set[int] = set()

    async def step(self) -> None:
        actions = [self.add, self.add, self.claim, self.claim, self.settle, self.settle, self.wait]
        actions += [self.replay, self.crash, self.pass_by]
        await self.random.choices(actions, [5, 5, 6, 6, 8, 8, 3, 1, 1, 4])[0]()

    async def add(self) -> None:
        contact = self.random.randrange(CONTACTS)
        consent = self.random.choice([None, None, None, "opt_in", "opt_out"])
        await self.store.add(arrival(contact, consent=consent))
        self.added += 1
        self.events[self.added] = (contact, consent)
        self.open[self.added] = (State.PENDING, 0)

    async def pass_by(self) -> None:
        """Events that do not go to the sink."""
        for _ in range(self.random.randint(1, 5)):
            self.added += 1
            await self.store.add(arrival(CONTACTS, sinks=["other"]))

    async def claim(self) -> None:
        urgent = self.random.choice([None, True, False])
        claimed = await self.store.claim("crm", self.random.randint(1, 4), urgent=urgent)
        for claim in claimed.claims:
            self.check(claim)
        for claim in claimed.claims:
            self.flying[claim.seq] = claim
            self.open.pop(claim.seq, None)
        contacts = [self.events[seq][0] for seq in self.flying]
        assert len(contacts) == len(set(contacts)), "one contact twice in flight"

    def check(self, claim) -> None:
        contact, _ = self.events[claim.seq]
        assert claim.event.data["mobile"] == mobile(contact)
        older = [seq for seq in self.open if seq < claim.seq and self.events[seq][0] == contact]
        if older:
            state, due = self.open[min(older)]
            assert claim.urgent, f"{claim.seq} went before {older}"
            assert state == State.WAITING, f"the opt-out {claim.seq} passed {older}"
            assert due > self.now(), f"the opt-out {claim.seq} passed a due {older}"
        later = any(s > claim.seq and self.events[s][0] == contact for s in self.landed)
        words = [(s, c) for s, (who, c) in sorted(self.events.items()) if who == contact and c]
        seq, word = words[-1] if words else (0, None)
        assert claim.opted_out == (word == "opt_out")
        last_word = word == "opt_out" and seq == claim.seq
        assert claim.stale == (later and not last_word), f"stale of {claim.seq}"

    async def settle(self, ends=ENDS) -> None:
        if not self.flying:
            return
        seq = self.random.choice(sorted(self.flying))
        del self.flying[seq]
        state = self.random.choice(ends)
        due = self.now() + self.random.choice([-1, 1, 30]) * SECOND
        await self.store.settle([Settlement("crm", seq, state, due=due)])
        if state in OPEN_STATES:
            self.open[seq] = (state, due)
        elif state == State.DEAD:
            self.dead.add(seq)
        else:
            self.landed.append(seq)
            self.expect_again(seq)

    def expect_again(self, seq: int) -> None:
        """An opt-out that was delivered is due once more behind an older event that landed."""
        contact = self.events[seq][0]
        words = [s for s, (who, consent) in self.events.items() if who == contact and consent]
        last = max(words, default=0)
        if last > seq and self.events[last][1] == "opt_out" and last in self.landed:
            settled = last not in self.open and last not in self.flying and last not in self.dead
            if settled:
                self.open[last] = (State.PENDING, 0)

    async def wait(self) -> None:
        await self.clock.advance(self.random.choice([1, 10, 40]))

    async def replay(self) -> None:
        if self.events:
            seq = self.random.choice(list(self.events))
            if await self.store.replay("crm", [seq]):
                self.open[seq] = (State.WAITING, 0)
                self.dead.discard(seq)

    async def crash(self) -> None:
        await self.store.close(clean=False)
        self.store = await SqliteStore.open(self.store._path, clock=self.clock)
        alone = len(self.flying) == 1
        for seq in list(self.flying):
            del self.flying[seq]
            rows = await self.store.deliveries([State.DEAD])
            if alone and seq in {row.seq for row in rows}:
                self.dead.add(seq)
            else:
                self.open[seq] = (State.PENDING, 0)

    async def drain(self) -> None:
        """Let all that is open land."""
        for _ in range(2000):
            if not self.open and not self.flying:
                return
            await self.claim()
            while self.flying:
                await self.settle((State.DELIVERED,))
            await self.clock.advance(40)
        raise AssertionError(f"stuck: {self.open}")

    def now(self) -> int:
        return int(self.clock.now() * SECOND)


@pytest.mark.parametrize("seed", range(60))
async def test_random_histories_keep_the_order(tmp_path, clock, seed, monkeypatch):
    monkeypatch.setattr(claims, "SCAN", (1, 3, claims.SCAN)[seed % 3])
    await live(tmp_path / "relay.db", clock, seed)


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(60, 1060))
async def test_a_thousand_random_histories(tmp_path, clock, seed, monkeypatch):
    await test_random_histories_keep_the_order(tmp_path, clock, seed, monkeypatch)


async def live(path, clock, seed: int) -> None:
    """One history, to its end."""
    store = await SqliteStore.open(path, clock=clock)
    history = History(store, clock, seed)
    for _ in range(STEPS):
        await history.step()
    await history.drain()
    counts = (await history.store.sink_counts())["crm"]
    assert counts.pending == 0
    assert counts.dead == len(history.dead)
    assert counts.delivered + counts.dead == len(history.events)
    for contact in range(CONTACTS):
        words = [
            seq for seq, (who, consent) in history.events.items() if who == contact and consent
        ]
        last = max(words, default=0)
        if last and history.events[last][1] == "opt_out" and last not in history.dead:
            until_then = [
                seq for seq in history.landed if history.events[seq][0] == contact and seq <= last
            ]
            assert until_then[-1] == last, "the receiver's last word is not the opt-out"
    await history.store.close()
