"""One STOP to one CRM: people who are there, what stands in its way, and what it changed.

    case = Case("a map that raises", map={"note": "{{ 1 / 0 }}"}, ends=State.DEAD)
    async with staged(tmp_path, SalesforceCrm(), case) as scene:
        await scene.stop()
        scene.report().sound()

Cases name fields neutrally (`last`, `mobile`, `note`, …); each CRM says what it calls them. The
oracle compares whole records from before and after, with the times at which they were written.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from relaying import PATIENCE, relaying
from stubs.hubspot import HubSpotStub
from stubs.hubspot_schema import Field
from stubs.salesforce import SalesforceStub
from stubs.vendor import serving

from relay.cli import client
from relay.cli.maintenance import _words as exported
from relay.store import DeliveryRow, State
from relay.store.port import Store

CONTACT = 1
NUMBER = "+12125550001"
KEY = "12125550001"
OUT = {"opted_out": True}
MAP = {"first": "{{ data.fields.Name }}", "mobile": "{{ data.mobile }}"}
OF_NUMBER = (
    {"last": "Doe", "note": "of long ago", "mobile": "(212) 555-0001"},
    {"last": "Roe", "first": "Ann", "phone": "+1 212 555 0001", "email": "roe@home.example"},
)
OTHERS = (
    {"last": "Poe", "mobile": "(212) 555-0002"},
    {"last": "Noe", "phone": "+44 2125 550001"},
    {"last": "Zoe", "email": "taken@home.example"},
    {"last": "Joe", "mobile": "(212) 555-0003", "opted_out": True},
)
"""Three have another number, and one has none; one has opted out before."""
RETRY = {"retry": {"initial": "5s", "max": "6h"}, "breaker": {"failures": 10}}
"""As by default."""

Record = Mapping[str, Any]
Step = Callable[["Scene"], Awaitable[None]]


@dataclass(frozen=True)
class Case:
    """What stands in the way of a STOP, and what becomes of the event's own record.

    `map` is laid over MAP. `of_number` are the records that have the number, `others` those that
    have not. `before` and `after` happen round the STOP. `made` are the records that it makes;
    where the event's own record is that of somebody, `own` is what it changes, by the last name.
    The delivery `ends` so, `says` this in its error or note, and the fault `fires`: the hindrance
    was there.
    """

    name: str
    map: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    of_number: tuple[Record, ...] = OF_NUMBER
    others: tuple[Record, ...] = OTHERS
    before: Step | None = None
    after: Step | None = None
    made: tuple[Record, ...] = ()
    own: Mapping[str, Record] = field(default_factory=dict)
    ends: State = State.DELIVERED
    says: str = ""
    fires: str | None = None

    def __str__(self) -> str:
        return self.name


class Crm:
    """A CRM that a STOP goes to: its stub, and its names for what the cases speak of."""

    name: str
    names: dict[str, str]

    def __init__(self, stub: Any) -> None:
        self.stub = stub

    def named(self, values: Record) -> dict[str, Any]:
        return {self.names.get(name, name): value for name, value in values.items()}

    def sink(self, url: str, case: Case, consent: Any) -> dict[str, Any]:
        return {
            "plugin": self.name,
            "map": self.named(MAP | case.map),
            "options": self.options(url) | {"consent": consent} | case.options,
            **RETRY,
            **case.settings,
        }

    def options(self, url: str) -> dict[str, Any]:
        raise NotImplementedError

    def seed(self, values: Record) -> str:
        """Somebody who was there long before; gives the id."""
        raise NotImplementedError

    def records(self) -> dict[str, dict[str, Any]]:
        """Everything that is there, by id, with the time of the last write as `written`."""
        raise NotImplementedError

    def opted_out(self, record: Record) -> bool:
        raise NotImplementedError

    def new(self, values: Record) -> dict[str, Any]:
        """A record that was made with these values."""
        return self.named(values)

    def require(self, name: str) -> None:
        """A new record needs this field."""
        raise NotImplementedError

    def remove_field(self, name: str) -> None:
        raise NotImplementedError

    def refuse(self, known: str) -> None:
        """The record with this id may not be changed."""
        raise NotImplementedError

    def touch(self, known: str) -> None:
        """Somebody else changes the record with this id."""
        raise NotImplementedError


class SalesforceCrm(Crm):
    name = "salesforce"
    names = {  # noqa: RUF012  nobody changes it
        "first": "FirstName",
        "last": "LastName",
        "mobile": "MobilePhone",
        "phone": "Phone",
        "email": "Email",
        "note": "Title",
        "key": "SMS_Key__c",
        "opted_out": "SMS_Opt_Out__c",
    }
    write = "composite/sobjects"
    look = "/search"

    def __init__(self) -> None:
        super().__init__(SalesforceStub())

    def options(self, url: str) -> dict[str, Any]:
        defaults = {"LastName": "Unknown"}
        way_in = {"client_id": "id", "client_secret": "secret"}
        return {"login_url": url, **way_in, "defaults": defaults}

    def seed(self, values: Record) -> str:
        """A lead where its `kind` says so; one that `has_become` a contact leads to that."""
        values = dict(values)
        kind, contact = values.pop("kind", "Contact"), values.pop("has_become", None)
        company = {"Company": "Home"} if kind == "Lead" else {}
        known = self.stub.seed(kind, self.named(values) | company)
        row = self.stub.org.row(kind, known)
        row["LastModifiedDate"] = row["SystemModstamp"] = "2020-01-01T00:00:00.000+0000"
        if contact is None:
            return known
        self.stub.convert(known, led_to := self.seed(contact))
        return led_to

    def records(self) -> dict[str, dict[str, Any]]:
        rows = [row for kind in ("Contact", "Lead") for row in self.stub.records(kind)]
        for row in rows:
            del row["Name"]  # calculated
        return {row["Id"]: row | {"written": row["LastModifiedDate"]} for row in rows}

    def opted_out(self, record: Record) -> bool:
        return record["SMS_Opt_Out__c"] is True

    def new(self, values: Record) -> dict[str, Any]:
        return self.named({"last": "Unknown", **values})

    def require(self, name: str) -> None:
        fields, name = self.stub.fields["Contact"], self.names[name]
        fields[name] = replace(fields[name], required=True)

    def remove_field(self, name: str) -> None:
        del self.stub.fields["Contact"][self.names[name]]

    def refuse(self, known: str) -> None:
        self.stub.fault_row("FIELD_CUSTOM_VALIDATION_EXCEPTION", key=known, count=99)

    def touch(self, known: str) -> None:
        self.stub.org.update("Contact", self.stub.org.row("Contact", known), {"Title": "Mayor"})


class HubSpotCrm(Crm):
    name = "hubspot"
    names = {  # noqa: RUF012
        "first": "firstname",
        "last": "lastname",
        "mobile": "mobilephone",
        "phone": "phone",
        "email": "email",
        "note": "city",
        "key": "sms_key",
        "opted_out": "sms_opt_out",
    }
    write = "batch/update"
    look = "/search"

    def __init__(self) -> None:
        super().__init__(HubSpotStub())

    def named(self, values: Record) -> dict[str, Any]:
        texts = {True: "true", False: "false"}
        named = super().named(values)
        return {n: texts[v] if isinstance(v, bool) else v for n, v in named.items()}

    def options(self, url: str) -> dict[str, Any]:
        return {"base_url": url, "token": "pat-na1-stub"}

    def seed(self, values: Record) -> str:
        return self.stub.seed("contacts", self.named(values))

    def records(self) -> dict[str, dict[str, Any]]:
        return {
            record.id: {"id": record.id, **record.properties, "written": record.updated}
            for record in self.stub.shelves["contacts"].ordered()
        }

    def opted_out(self, record: Record) -> bool:
        return record.get("sms_opt_out") == "true"

    def require(self, name: str) -> None:
        self.stub.fields["contacts"][self.names[name]] = Field(required=True)

    def remove_field(self, name: str) -> None:
        del self.stub.fields["contacts"][self.names[name]]

    def refuse(self, known: str) -> None:
        self.stub.fault_row("UNHEARD_OF", id=known, count=99)

    def touch(self, known: str) -> None:
        shelf = self.stub.shelves["contacts"]
        shelf.change(shelf.records[known], {"city": "Tampa"}, time.time())


@dataclass(frozen=True)
class Report:
    """What the STOP did. `seconds` passed until the last record had it."""

    faults: dict[str, list[Any]]
    seconds: float | None

    def sound(self) -> None:
        for fault, found in self.faults.items():
            assert not found, f"{fault}: {found}"


@dataclass
class Scene:
    """A relay in front of the CRM, before and after the STOP; made by `staged`."""

    crm: Crm
    case: Case
    relay: Any
    targets: set[str] = field(default_factory=set)
    before: dict[str, dict[str, Any]] = field(default_factory=dict)
    after: dict[str, dict[str, Any]] = field(default_factory=dict)
    words: list[tuple[str, bool]] = field(default_factory=list)
    event: str = ""
    delivery: DeliveryRow | None = None
    sent: float = 0.0
    seconds: float | None = None

    async def stop(self, patience: float = PATIENCE) -> None:
        """Send it, and wait until it is everywhere and said to be accepted, or for so long."""
        if self.case.before:
            await self.case.before(self)
        self.before = self.crm.records()
        self.sent = time.monotonic()
        self.event = await self.relay.send(CONTACT, "STOP")
        if self.case.after:
            await self.case.after(self)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._arrived()
        await self.learn()

    async def learn(self) -> None:
        """Look once at what is there."""
        self.after = self.crm.records()
        words = await asyncio.to_thread(client.ask, self.relay.config, exported)
        mine = [each for each in words if each["mobile"] == NUMBER]
        self.words = [(each["word"], "crm" in each["accepted"]) for each in mine]
        rows = await self._store.deliveries(list(State), limit=100)
        self.delivery = next((row for row in rows if row.event_id == self.event), None)

    async def _arrived(self) -> None:
        """Everywhere first, and then settled: what comes late is seen, too."""
        while not self._is_everywhere():
            await asyncio.sleep(0.005)
        self.seconds = time.monotonic() - self.sent
        while not all("crm" in each.accepted for each in await self._words()):
            await asyncio.sleep(0.02)
        while (found := await self.relay.status())["pending"] and found["state"] != "paused":
            await asyncio.sleep(0.02)

    def _is_everywhere(self) -> bool:
        records = self.crm.records()
        concerned = self._concerned() | (records.keys() - self.before.keys())
        return bool(concerned) and all(self.crm.opted_out(records[each]) for each in concerned)

    @property
    def _store(self) -> Store:
        return self.relay._running._store

    async def _words(self) -> list[Any]:
        words = await self._store.consent_log(after=0, limit=100)
        return [each for each in words if each.mobile == NUMBER]

    def report(self) -> Report:
        expected = self._expected()
        wrong = {
            known: (expected[known], found)
            for known, found in self._unstamped(self.after).items()
            if known in expected and found != expected[known]
        }
        made = [
            {name: value for name, value in record.items() if name in self.crm.names.values()}
            for known, record in self._unstamped(self.after).items()
            if known not in self.before
        ]
        faults = {
            "not opted out": [
                known for known in self._concerned() if not self.crm.opted_out(self.after[known])
            ],
            "fields touched": list(wrong.items()),
            "records touched": [
                known
                for known in self.before.keys() - self._concerned()
                if self.after.get(known, {}).get("written") != self.before[known]["written"]
            ],
            "records gone": sorted(self.before.keys() - self.after.keys()),
            "records made": [] if made == self._made() else [made],
            "another end": [] if self._ended_as_expected() else [self.delivery],
            "faults missing": [] if self.case.fires in {None, *self.crm.stub.fired} else ["it"],
            "words not accepted": [word for word, accepted in self.words if not accepted],
            "last word": [] if self.words and self.words[-1][0] == "opt_out" else [self.words],
        }
        return Report(faults, self.seconds)

    def _ended_as_expected(self) -> bool:
        end = self.delivery
        return end and end.state == self.case.ends and self.case.says in (end.error or "")

    def _expected(self) -> dict[str, dict[str, Any]]:
        out, last = self.crm.named(OUT), self.crm.names["last"]
        own = {name: self.crm.named(values) for name, values in self.case.own.items()}
        return {
            known: record
            | own.get(record.get(last), {})
            | (out if known in self._concerned() else {})
            for known, record in self._unstamped(self.before).items()
        }

    def _concerned(self) -> set[str]:
        """Those that were there and have the number by now."""
        last = self.crm.names["last"]
        return self.targets | {
            each for each in self.before if self.before[each].get(last) in self.case.own
        }

    def _made(self) -> list[dict[str, Any]]:
        return [self.crm.new({**each, **OUT}) for each in self.case.made]

    def _unstamped(self, records: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        stamps = {"written", "LastModifiedDate", "SystemModstamp"}
        return {
            known: {name: value for name, value in record.items() if name not in stamps}
            for known, record in records.items()
        }


@contextlib.asynccontextmanager
async def staged(folder: Path, crm: Crm, case: Case, *, consent: Any = ...):
    """The relay with the case's sink, whose people are there; nothing has been sent yet.

    `consent` is the option of the sink; by default it names the CRM's field.
    """
    targets = {crm.seed(values) for values in case.of_number}
    for values in case.others:
        crm.seed(values)
    consent = {"field": crm.names["opted_out"]} if consent is ... else consent
    async with (
        serving(crm.stub.app) as url,
        relaying(folder, crm.sink(url, case, consent)) as relay,
    ):
        yield Scene(crm, case, relay, targets)
