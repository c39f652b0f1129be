"""A storm of what people type: blank, misspelt, shared and conflicting values.

    async with storming(tmp_path, vendor, kind=PeopleStorm, **typed(vendor)) as storm:
        storm.seed_shared(contacts=150)
        await storm.rage(events=600, contacts=150, kills=3)
        (await storm.verdict()).sound()

Of some contacts there are two people already who share the number, and two contacts of ten share
an e-mail address. A person is to have the last value of each field that was neither blank nor
misspelt.
"""

from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Any

from crmstorm import Callback, Storm, Verdict, callbacks, key_of, last_words
from crmvendors import Person, Vendor

from relay.store import EventRow

SHARED_NUMBERS = 50
"""One contact of so many has two people there already."""
FAMILY = 10
"""The first two contacts of so many share an address."""
BLANK = ("", "   ", None)
MISSPELT = {"Email": "nobody at all", "Born": "31/31/2000"}
BIRTHDAY = "{{ data.fields.Born | date('%m/%d/%Y', '%Y-%m-%d') }}"


def typed(vendor: Vendor) -> dict[str, Any]:
    """The sink for such a storm: invalid values are left out, and consent is written alone."""
    filled = {"Zip": "{{ data.fields.Zip }}", "Born": BIRTHDAY}
    names = {vendor.values[name]: template for name, template in filled.items()}
    kept = {name: each for name, each in vendor.map().items() if name != vendor.opted_out}
    options = {"on_invalid": "drop", "consent": vendor.consent()}
    return {"settings": {"map": kept | names}, **options}


@dataclass
class PeopleStorm(Storm):
    """`seeded` are the ids of people who were there, with the key that their number would have."""

    seeded: dict[str, str] = field(default_factory=dict)

    def seed_shared(self, contacts: int) -> None:
        for contact in range(0, contacts, SHARED_NUMBERS):
            for _ in range(2):
                known = self.vendor.seed(f"(212) 555-{contact:04}")
                self.seeded[known] = f"1212555{contact:04}"

    def callbacks(self, events: int, contacts: int) -> list[Callback]:
        return [self._typed(each) for each in callbacks(events, contacts, self.chance)]

    def _typed(self, callback: Callback) -> Callback:
        """An opt-out may overtake what came before it, so words of consent bring every value."""
        number = int(callback.number.partition("-")[2])
        values = {
            "Zip": f"Z{number}",
            "Born": f"{date(1960, 1, 1) + timedelta(days=number):%m/%d/%Y}",
            "Email": address(callback.contact),
        }
        if callback.message == "hello":
            values |= {name: self._spoilt(name, value) for name, value in values.items()}
        wrong = callback.wrong if callback.wrong == "note" else None
        return replace(callback, wrong=wrong, typed=values)

    def _spoilt(self, name: str, value: str) -> str | None:
        drawn = self.chance.random()
        if drawn < 0.1 and name in MISSPELT:
            return MISSPELT[name]
        return self.chance.choice(BLANK) if drawn < 0.4 else value

    def _people(self) -> list[Person]:
        return [person for person in self.vendor.people() if person.key]

    async def verdict(self) -> Verdict:
        found = await super().verdict()
        rows, _, _ = await self._stored()
        there = self.vendor.table()
        people = {row["key"]: row for row in there.values() if row["key"]}
        consent = last_words(rows)
        told = last_values(rows)
        found.faults |= {
            "values wrong": [
                (key, name, people[key].get(column), told[key].get(name))
                for key in people.keys() & told.keys()
                for name, column in self.vendor.values.items()
                if people[key].get(column) not in self._expected(key, name, told)
            ],
            "addresses shared": self._shared_addresses(people),
            "people by number wrong": [
                (known, key)
                for known, key in self.seeded.items()
                if is_true(there[known].get(self.vendor.opted_out)) != consent.get(key, False)
            ],
        }
        found.counts |= {
            "blank": self._typed_as(lambda _, text: not (text or "").strip()),
            "misspelt": self._typed_as(lambda name, text: text == MISSPELT.get(name)),
            "people by number": len(self.seeded),
        }
        return found

    def _typed_as(self, like: Any) -> int:
        return sum(
            like(name, text) for each in self.sent.values() for name, text in each.typed.items()
        )

    def _expected(self, key: str, name: str, told: dict[str, dict[str, str]]) -> set[str | None]:
        """HubSpot lets one of a family have its address."""
        expected: set[str | None] = {told[key].get(name)}
        is_shared = name == "Email" and int(key) % FAMILY < 2 and self.vendor.name == "hubspot"
        return expected | ({None} if is_shared else set())

    def _shared_addresses(self, people: dict[str, dict[str, Any]]) -> list[str]:
        """Addresses that more of them have than the vendor allows."""
        if self.vendor.name != "hubspot":
            return []
        owners: defaultdict[str, list[str]] = defaultdict(list)
        for key, row in people.items():
            if email := row.get(self.vendor.values["Email"]):
                owners[email].append(key)
        return [email for email, keys in owners.items() if len(keys) > 1]


def address(contact: int) -> str:
    whose = contact - contact % FAMILY if contact % FAMILY < 2 else contact
    return f"c{whose}@example.com"


def last_values(rows: list[EventRow]) -> dict[str, dict[str, str]]:
    """The last value of each field that was neither blank nor misspelt, by key and field."""
    told: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for row in rows:
        fields = row.event.data["fields"]
        values = {name: str(fields.get(name) or "").strip() for name in ("Zip", "Born", "Email")}
        good = {n: text for n, text in values.items() if text and text != MISSPELT.get(n)}
        if born := good.get("Born"):
            month, day, year = born.split("/")
            good["Born"] = f"{year}-{month}-{day}"
        told[key_of(row)] |= good
    return told


def is_true(value: Any) -> bool:
    return value in {True, "true"}
