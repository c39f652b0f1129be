"""A storm: callbacks of many contacts, a vendor that fails in every way it can, and kills.

    async with storming(tmp_path, Salesforce()) as storm:
        await storm.rage(events=600, contacts=150, kills=3)
        (await storm.verdict()).sound()

Each callback has a number of its own, in a field of the client's; some hold what the vendor is
to refuse, some are opt-outs. All that is expected is worked out from what the relay stored.
"""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import httpx
import orjson
from crmvendors import Activity, Person, Vendor, as_yaml
from oracle import integrity
from relays import POLL, Relay, Sender
from stubs.vendor import serving

from relay.store import DeliveryRow, EventFilter, EventRow, State
from relay.store.sqlite import SqliteStore

SPEED = 1000.0
SENDERS = 8
STOPS, STARTS, BAD = 0.03, 0.02, 0.02
"""The shares of opt-outs, opt-ins, and of events that the vendor refuses."""
WRONG = {
    "email": {"Email": "nobody at all"},
    "status": {"Status": "x1"},
    "note": {"Note": "n" * 300},
}
QUICK = {
    "retry": {"initial": "1s", "max": "60s"},
    "breaker": {"cooldown": "10s"},
    "batch": {"wait": "1s"},
}


@dataclass(frozen=True)
class Callback:
    """One to be sent: its number, its contact, and what is wrong with it, if anything."""

    number: str
    contact: int
    wrong: str | None = None
    message: str = "hello"
    typed: Mapping[str, str | None] = field(default_factory=dict)
    """What stands in the client's fields in place of what is there by default; None: nothing."""

    def body(self) -> bytes:
        person = 2125550000 + self.contact
        fields = {"Number": self.number, "Email": f"c{person}@example.com"}
        fields |= WRONG.get(self.wrong or "", {})
        fields = {name: text for name, text in (fields | self.typed).items() if text is not None}
        known = {"mobile": person, "carrierId": "TEST", "shortcode": 84700, "key": "JOIN"}
        return urlencode(known | {"msg": self.message} | fields).encode()


def callbacks(events: int, contacts: int, chance: random.Random) -> list[Callback]:
    """Each contact has its share, in a random order; the first of each is good."""
    order = [number % contacts for number in range(events)]
    chance.shuffle(order)
    made, seen = [], set()
    for number, contact in enumerate(order):
        wrong, message, drawn = None, "hello", chance.random()
        if contact in seen and drawn < BAD:
            wrong = chance.choice(list(WRONG))
        elif drawn > 1 - STOPS:
            message = "STOP"
        elif drawn > 1 - STOPS - STARTS:
            message = "START"
        seen.add(contact)
        made.append(Callback(f"{contact}-{number}", contact, wrong, message))
    return made


class Line(Sender):
    """A sender of callbacks as a client would post them."""

    async def post(self, body: bytes) -> tuple[int, str]:
        """Status and id of the event. Raises OSError or EOFError where no answer comes."""
        reader, writer = self._streams or await self.connect()
        try:
            writer.write(
                b"POST /callbacks/sumotext HTTP/1.1\r\nHost: relay\r\n"
                b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s"
                % (len(body), body)
            )
            status, answer = await self._answer(reader)
        except BaseException:
            self.hang_up()
            raise
        if self.headers.get("connection") == "close":
            self.hang_up()
        return status, orjson.loads(answer).get("id", "")


class Astray(NamedTuple):
    """An activity as it is there, what it should be, and how its delivery ended."""

    event: str
    number: str
    contacts: dict[str, str]
    right_number: str
    right_key: str
    ending: str


@dataclass
class Verdict:
    """What is wrong, by what is wrong; `counts` are for people."""

    faults: dict[str, list[Any]]
    counts: dict[str, int]

    def sound(self) -> None:
        for fault, found in self.faults.items():
            assert not found, f"{fault}: {len(found)}, such as {found[:3]}"

    def __str__(self) -> str:
        told = [f"{number} {name}" for name, number in self.counts.items()]
        return ", ".join(told + [f"{len(found)} {fault}" for fault, found in self.faults.items()])


@dataclass
class Storm:
    """One vendor, one relay, and what was sent; made by `storming`."""

    vendor: Vendor
    relay: Relay
    chance: random.Random
    sent: dict[str, Callback] = field(default_factory=dict)
    acked: dict[str, str] = field(default_factory=dict)
    kills: int = 0

    async def rage(
        self, events: int, contacts: int, kills: int = 0, *, revoke: bool = True, patience: float
    ) -> None:
        """Send all, break all, and wait until the relay has delivered what can be."""
        begun = time.monotonic()
        await self.relay.start()
        self.vendor.calm = False
        async with asyncio.timeout(patience), asyncio.TaskGroup() as work:
            made = self.callbacks(events, contacts)
            for line in range(SENDERS):
                own = [each for each in made if each.contact % SENDERS == line]
                work.create_task(self._send(own))
            work.create_task(self._kill(events, kills))
            if revoke:
                work.create_task(self._revoke(events))
        await self.relay.delivered(patience)
        self.vendor.calm = True
        assert await self.relay.stop() == 0, self.relay.last_words()
        print(f"\n{self.vendor.name}: {self.kills} kills, {time.monotonic() - begun:.0f} s")
        print(f"faults: {dict(self.vendor.fired.most_common())}")

    def callbacks(self, events: int, contacts: int) -> list[Callback]:
        return callbacks(events, contacts, self.chance)

    async def send(self, made: list[Callback]) -> None:
        """Just send them; each must be taken."""
        await self._send(made)
        assert len(self.acked) == len(self.sent)

    async def _send(self, made: list[Callback]) -> None:
        """One after the other, each once, whatever becomes of it."""
        async with Line(self.relay.port, None) as line:
            for callback in made:
                await self.relay.up.wait()
                self.sent[callback.number] = callback
                try:
                    status, event = await line.post(callback.body())
                except (OSError, EOFError):
                    await asyncio.sleep(POLL)
                    continue
                assert status == 200, status
                self.acked[event] = callback.number

    async def _kill(self, events: int, kills: int) -> None:
        """Spread over the storm, each at the moment when some call is on its way."""
        for number in range(kills):
            await self._progress(events * (number + 0.5) / (kills + 1))
            await self._next_call()
            self.relay.kill()
            self.kills += 1
            await self.relay.start()

    async def _revoke(self, events: int) -> None:
        """Halfway nobody is let in, until the relay has noticed."""
        await self._progress(events / 2)
        self.vendor.revoke()
        while not await self._paused():
            await asyncio.sleep(POLL)
        self.vendor.fired["revoked"] += 1
        self.vendor.restore()

    async def backlog(self, made: list[Callback]) -> None:
        """All of it is there before anything is delivered."""
        await self.relay.start()
        await self.ask("pause")
        await self.send(made)
        await self.ask("resume")

    async def ask(self, what: str) -> None:
        async with self.relay.control() as control:
            (await control.post(f"/sinks/crm/{what}", json={})).raise_for_status()

    async def _paused(self) -> bool:
        try:
            return (await self.status())["state"] == "paused"
        except OSError:  # it is down just now
            return False

    async def status(self) -> dict[str, Any]:
        try:
            return (await self.relay.status())["sinks"]["crm"]
        except httpx.TransportError as error:
            raise OSError(str(error)) from None

    async def _progress(self, activities: float) -> None:
        while self.vendor.written() < activities:
            await asyncio.sleep(0.005)

    async def _next_call(self) -> None:
        await self.vendor.stub.called(len(self.vendor.stub.calls) + self.chance.randint(1, 4))

    # what is there in the end

    async def verdict(self) -> Verdict:
        """The word on a relay that has stopped."""
        assert integrity(self.relay.store) == "ok"
        rows, ended, open_ = await self._stored()
        dead = {each.event_id: each.error or "" for each in ended if each.state is State.DEAD}
        told = {each.event_id: ending(each) for each in ended}
        people, activities = self._people(), self.vendor.activities()
        numbers = [number_of(row) for row in rows]
        stored = {row.event.id: row for row in rows}
        bad = {row.event.id for row in rows if self.sent[number_of(row)].wrong}
        good = [row for row in rows if row.event.id not in bad]
        last = {key_of(row): number_of(row) for row in rows if self._shows(row)}
        consent = last_words(rows)
        written = {each.event: each for each in activities}
        pairs = [(row, written[row.event.id]) for row in good if row.event.id in written]
        faults = {
            "acknowledged and lost": sorted(self.acked.keys() - stored.keys()),
            "callbacks stored twice": twice(numbers),
            "deliveries unfinished": open_,
            "contacts twice": twice(person.key for person in people),
            "contacts missing": sorted(last.keys() - {person.key for person in people}),
            "contacts invented": sorted({person.key for person in people} - last.keys()),
            "contacts stale": [p for p in people if p.number != last.get(p.key, p.number)],
            "consents wrong": [p for p in people if p.opted_out != consent.get(p.key, False)],
            "activities twice": twice(each.event for each in activities),
            "activities missing": [
                (r.event.id, told.get(r.event.id)) for r in good if r.event.id not in written
            ],
            "activities invented": sorted(written.keys() - {row.event.id for row in good}),
            "activities of nobody": [
                (row.event.id, told.get(row.event.id)) for row, found in pairs if not found.contacts
            ],
            "activities of another": [
                Astray(*found, number_of(row), key_of(row), told.get(row.event.id, ""))
                for row, found in pairs
                if astray(row, found)
            ],
            "dead for nothing": [(i, told[i]) for i in sorted(dead.keys() - bad)],
            "refused and not dead": sorted(bad - dead.keys()),
            "dead without reason": [
                (i, dead[i]) for i in bad & dead.keys() if self._reason(stored[i]) not in dead[i]
            ],
        }
        counts = {
            "sent": len(self.sent),
            "acknowledged": len(self.acked),
            "stored": len(rows),
            "contacts": len(people),
            "activities": len(activities),
            "dead": len(dead),
            "tried again": sum(each.attempts - 1 for each in ended),
            "calls": len(self.vendor.stub.calls),
        }
        return Verdict(faults, counts)

    def _people(self) -> list[Person]:
        return self.vendor.people()

    def _shows(self, row: EventRow) -> bool:
        """Whether the contact is written by this event: a bad note spoils the activity alone."""
        return self.sent[number_of(row)].wrong in {None, "note"}

    def _reason(self, row: EventRow) -> str:
        return self.vendor.refusals[self.sent[number_of(row)].wrong]

    async def _stored(self) -> tuple[list[EventRow], list[DeliveryRow], list[tuple[str, str]]]:
        """Every event, the deliveries that have ended, and what is neither delivered nor dead."""
        store = await SqliteStore.open(self.relay.store)
        try:
            rows: list[EventRow] = []
            while page := await store.events_after(
                EventFilter(), after=rows[-1].seq if rows else 0
            ):
                rows += page
            ends = [State.DELIVERED, State.DEAD]
            ended = await store.deliveries(ends, limit=len(rows) + 1)
            others = [state for state in State if state not in ends]
            open_ = await store.deliveries(others, limit=len(rows) + 1)
        finally:
            await store.close()
        return rows, ended, [(row.event_id, row.state.name) for row in open_]


def number_of(row: EventRow) -> str:
    return row.event.data["fields"]["Number"]


def key_of(row: EventRow) -> str:
    return row.event.data["mobile"][1:]


def last_words(rows: list[EventRow]) -> dict[str, bool]:
    """Whether each contact's last word of consent is an opt-out."""
    words = ((key_of(row), row.event.data["consent"]) for row in rows)
    return {key: consent == "opt_out" for key, consent in words if consent}


def astray(row: EventRow, found: Activity) -> bool:
    """Whether the event's activity is not that of the event, or also of another contact."""
    return found.number != number_of(row) or not {key_of(row)}.issuperset(found.contacts.values())


def ending(row: DeliveryRow) -> str:
    """How a delivery ended, for people."""
    return f"{row.state.name} after {row.attempts} attempts: {row.error}"


def twice(values) -> list[str]:
    return [value for value, times in Counter(values).items() if times > 1]


@contextlib.asynccontextmanager
async def storming(
    folder: Path,
    vendor: Vendor,
    *,
    speed: float = SPEED,
    epoch: float | None = None,
    settings: dict[str, Any] | None = None,
    environment: dict[str, str] | None = None,
    seed: int = 0,
    kind: type[Storm] = Storm,
    **options: Any,
):
    """The stub is served by this process, so that it outlives the relay, which is one of its own.

    The relay's clock runs `speed` times as fast since `epoch`. `settings` go to the sink, beside
    those of QUICK, `options` to its options, an `environment` to the relay.
    """
    async with serving(vendor.app) as url:
        sink = vendor.sink(url, QUICK | (settings or {}), **options)
        relay = Relay(
            folder, archive=False, sinks=as_yaml({"crm": sink}), command=["-m", "crmbrisk"]
        )
        since = time.time() if epoch is None else epoch
        relay.environment |= {"CRM_SPEED": str(speed), "CRM_EPOCH": str(since)}
        relay.environment |= environment or {}
        try:
            yield kind(vendor, relay, random.Random(seed))
        finally:
            relay.close()
