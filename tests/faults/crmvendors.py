"""The two vendors as the storms see them: a strict stub, the sink's options, what is in there."""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml
from stubs.hubspot import HubSpotStub
from stubs.hubspot_lists import RecordList
from stubs.hubspot_schema import Field
from stubs.salesforce import SalesforceStub

SLOW = 0.4
"""Seconds that a slow answer takes; far below the sinks' time-out."""
NUMBER, NOTE, STATUS, EMAIL = (
    f"{{{{ data.fields.{name} }}}}" for name in ("Number", "Note", "Status", "Email")
)
MOBILE = "{{ data.mobile }}"
TASK_KEY = "SMS_Event_Id__c"


class Person(NamedTuple):
    """A contact there: its key, the number of the event that it shows, whether it opted out."""

    key: str
    number: str
    opted_out: bool


class Activity(NamedTuple):
    """One there: the event's id and number, and the contacts that it points to: keys by id."""

    event: str
    number: str
    contacts: dict[str, str]


class Vendor:
    """A stub whose data requests go wrong by chance while `calm` is false.

    `whole` are faults of a request, and `rows` of one row, each with its weight: each comes once
    before any comes again. `share` of the requests meet one of either, and `slow` wait for their
    answer. `refusals` are what the vendor says to what is wrong in an event. `opted_out` and
    `values` are its names for consent and for what people type.
    """

    name: str
    opted_out: str
    values: dict[str, str]
    whole: dict[str, int]
    rows: dict[str, int]
    refusals: dict[str, str]

    def __init__(
        self, stub: Any, *, share: float = 0.12, slow: float = 0.01, seed: int = 0
    ) -> None:
        self.stub = stub
        self.share = share
        self.slow = slow
        self.calm = True
        self._chance = random.Random(seed)
        self._hands = [self._dealt(self.whole), self._dealt(self.rows)]
        stub.chance = self._strike

    @property
    def fired(self) -> Counter[str]:
        return self.stub.fired

    async def app(self, scope, receive, send) -> None:
        """The stub, slow now and then."""
        if not self.calm and self._chance.random() < self.slow:
            self.fired["slow"] += 1
            await asyncio.sleep(SLOW)
        await self.stub.app(scope, receive, send)

    def _strike(self, _method: str, _path: str) -> str | None:
        if self.calm:
            return None
        whole, rows = self._hands
        if self._chance.random() < self.share:
            self.spoil_row(next(rows))
        return next(whole) if self._chance.random() < self.share else None

    def _dealt(self, weighed: dict[str, int]) -> Iterator[str]:
        yield from self._chance.sample(list(weighed), len(weighed))
        while True:
            yield self._chance.choices(list(weighed), list(weighed.values()))[0]

    def kinds(self) -> set[str]:
        """Every fault that a storm is to meet."""
        return {*self.whole, *self.rows, "slow", "revoked"}

    def options(self, url: str, **changes: Any) -> dict[str, Any]:
        """A record with a bad value is to be dead, so that its end can be foretold."""
        dead = {"on_invalid": "dead"}
        return {**self.plain_options(url), **dead, "activity": self.activity() | dead, **changes}

    def sink(
        self, url: str, settings: dict[str, Any] | None = None, **options: Any
    ) -> dict[str, Any]:
        """The sink for relay.yaml; an option that is None is left out."""
        made = {name: v for name, v in self.options(url, **options).items() if v is not None}
        return {
            "plugin": self.name,
            "map": self.map(),
            "options": made,
            "allow_private": ["127.0.0.0/8"],
            "timeout": "2s",
        } | (settings or {})

    def plain_options(self, url: str) -> dict[str, Any]:
        raise NotImplementedError

    def by_key(self) -> dict[str, Any]:
        """The options for a way in that counts by the day."""
        return {}

    def consent(self) -> dict[str, Any]:
        """The option that has words of consent written alone."""
        return {"field": self.opted_out}

    def activity(self) -> dict[str, Any]:
        raise NotImplementedError

    def map(self) -> dict[str, Any]:
        raise NotImplementedError

    def spoil_row(self, name: str) -> None:
        raise NotImplementedError

    def revoke(self) -> None:
        """Nobody gets in until `restore`."""
        raise NotImplementedError

    def restore(self) -> None:
        raise NotImplementedError

    def seed(self, mobile: str) -> str:
        """Somebody who has been there for long, by phone alone; gives the id."""
        raise NotImplementedError

    def table(self) -> dict[str, dict[str, Any]]:
        """The people as the vendor has them, by id; the key is in `key`."""
        raise NotImplementedError

    def _keys(self) -> dict[str, str]:
        return {known: row["key"] for known, row in self.table().items()}

    def people(self) -> list[Person]:
        raise NotImplementedError

    def activities(self) -> list[Activity]:
        raise NotImplementedError

    def written(self) -> int:
        """How many activities there are."""
        raise NotImplementedError

    def data_calls(self) -> list[Any]:
        return [call for call in self.stub.calls if self.stub.is_data(call.method, call.path)]

    def throttled(self) -> int:
        """How many calls were answered with: you ask too much."""
        raise NotImplementedError


class Salesforce(Vendor):
    """An org. Its tokens end now and then, which the sink mends itself."""

    name = "salesforce"
    opted_out = "SMS_Opt_Out__c"
    values = {"Zip": "MailingPostalCode", "Born": "Birthdate", "Email": "Email"}  # noqa: RUF012
    whole = {  # noqa: RUF012  nobody changes it
        "throttle": 3,
        "503": 3,
        "500": 2,
        "502": 2,
        "504": 2,
        "maintenance": 2,
        "query_timeout": 2,
        "expired": 3,
        "empty": 3,
        "not_json": 2,
        "lock_row": 3,
        "drop": 3,
        "drop_after_commit": 5,
        "503_after_commit": 4,
        "garbage": 2,
        "hang": 1,
        "daily": 1,
    }
    rows = {"UNABLE_TO_LOCK_ROW": 3, "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY": 1}  # noqa: RUF012
    refusals = {  # noqa: RUF012
        "email": "INVALID_EMAIL_ADDRESS",
        "status": "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST",
        "note": "STRING_TOO_LONG",
    }

    def __init__(self, **more: Any) -> None:
        super().__init__(SalesforceStub(), **more)

    def plain_options(self, url: str) -> dict[str, Any]:
        return {"login_url": url, "client_id": "id", "client_secret": "secret"}

    def activity(self) -> dict[str, Any]:
        return {
            "object": "SMS_Event__c",
            "external_id": "Event_Id__c",
            "contact": "Contact__r",
            "map": {"Name": NUMBER, "Keyword__c": NOTE, "Message__c": "{{ data.message }}"},
        }

    def map(self) -> dict[str, Any]:
        return {
            "FirstName": NUMBER,
            "LastName": "Storm",
            "MobilePhone": MOBILE,
            "Email": EMAIL,
            "SMS_Status__c": STATUS,
            "SMS_Opt_Out__c": "{{ opted_out }}",
        }

    def spoil_row(self, name: str) -> None:
        message = {"CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY": "Flow: UNABLE_TO_LOCK_ROW"}.get(name)
        self.stub.fault_row(name, message=message)

    def revoke(self) -> None:
        self.stub.expire_tokens()
        self.stub.refuse_sign_in("inactive_user", "user is frozen")

    def restore(self) -> None:
        self.stub.allow_sign_in()

    def table(self) -> dict[str, dict[str, Any]]:
        rows = self.stub.records("Contact")
        return {row["Id"]: row | {"key": row.get("SMS_Key__c", "")} for row in rows}

    def seed(self, mobile: str) -> str:
        return self.stub.seed("Contact", {"LastName": "Old", "Phone": mobile})

    def people(self) -> list[Person]:
        return [
            Person(row.get("SMS_Key__c", ""), row.get("FirstName", ""), row["SMS_Opt_Out__c"])
            for row in self.stub.records("Contact")
        ]

    def activities(self) -> list[Activity]:
        keys = self._keys()
        return [
            Activity(row["Event_Id__c"], row.get("Name", ""), within(keys, row.get("Contact__c")))
            for row in self.stub.records("SMS_Event__c")
        ]

    def written(self) -> int:
        return len(self.stub.org.table("SMS_Event__c"))

    def throttled(self) -> int:
        return sum(call.status == 403 for call in self.stub.calls)


class SalesforceTasks(Salesforce):
    """An org whose activities are tasks of the people. `open` are those that are not completed."""

    def activity(self) -> dict[str, Any]:
        return {"object": "Task", "map": {"Subject": NOTE, "Description": NUMBER}}

    def activities(self) -> list[Activity]:
        keys = self._keys()
        return [
            Activity(row[TASK_KEY], row["Description"], within(keys, row.get("WhoId")))
            for row in self.stub.records("Task")
        ]

    def open(self) -> list[str]:
        return [row[TASK_KEY] for row in self.stub.records("Task") if not row["IsClosed"]]

    def written(self) -> int:
        return len(self.stub.org.table("Task"))


class KeylessTasks(SalesforceTasks):
    """The same, but for the external id of tasks: it finds none, and may be there twice."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        found = self.stub.org.matches
        self.stub.org.matches = lambda kind, *rest: [] if kind == "Task" else found(kind, *rest)


class HubSpot(Vendor):
    """An account, asked with OAuth, as a fixed key never expires."""

    name = "hubspot"
    opted_out = "sms_opt_out"
    values = {"Zip": "zip", "Born": "sms_joined", "Email": "email"}  # noqa: RUF012
    whole = {  # noqa: RUF012
        "throttle": 3,
        "throttle_old": 2,
        "423": 3,
        "503": 3,
        "500": 2,
        "502": 2,
        "504": 2,
        "521": 1,
        "html": 2,
        "expired": 3,
        "empty": 3,
        "drop": 3,
        "drop_after_commit": 5,
        "503_after_commit": 4,
        "garbage": 2,
        "hang": 1,
        "daily": 1,
    }
    rows = {  # noqa: RUF012
        "SILENT": 2,
        "SILENT_AFTER_COMMIT": 3,
        "NAMELESS": 2,
        "LOCKED": 3,
        "RATE_LIMITS": 1,
        "INTERNAL_ERROR": 2,
    }
    refusals = {  # noqa: RUF012
        "email": "INVALID_EMAIL",
        "status": "INVALID_OPTION",
        "note": "INVALID_STRING_LENGTH",
    }

    def __init__(self, clock: Any = None, **more: Any) -> None:
        super().__init__(HubSpotStub(clock=clock), **more)
        # Who is throttled in a storm is so by chance.
        self.stub.burst_most = self.stub.oauth_burst_most = self.stub.oauth_most = 1_000_000
        self.stub.search_most = 1_000_000
        self.stub.rotate = False  # a relay that is killed forgets the new one
        self.stub.fields["2-123"]["message"].length = 40

    def plain_options(self, url: str) -> dict[str, Any]:
        oauth = {"client_id": "client", "client_secret": "secret", "refresh_token": "refresh-1"}
        return {"base_url": url, "oauth": oauth}

    def by_key(self) -> dict[str, Any]:
        return {"oauth": None, "token": "pat-na1-stub"}

    def activity(self) -> dict[str, Any]:
        map_ = {"name": NUMBER, "message": NOTE}
        made = {"type": "2-123", "id_property": "event_id", "association": 17, "map": map_}
        return {"object": made}

    def map(self) -> dict[str, Any]:
        return {
            "firstname": NUMBER,
            "mobilephone": MOBILE,
            "email": EMAIL,
            "lifecyclestage": STATUS,
            "sms_opt_out": "{{ opted_out }}",
        }

    def spoil_row(self, name: str) -> None:
        self.stub.fault_row(name)

    def revoke(self) -> None:
        self._kept = set(self.stub.access.refresh_tokens)
        self.stub.revoke_all()

    def restore(self) -> None:
        self.stub.access.refresh_tokens |= self._kept

    def table(self) -> dict[str, dict[str, Any]]:
        rows = self.stub.records("contacts")
        return {row["id"]: row | {"key": row.get("sms_key", "")} for row in rows}

    def seed(self, mobile: str) -> str:
        return self.stub.seed("contacts", {"lastname": "Old", "phone": mobile})

    def people(self) -> list[Person]:
        return [
            Person(
                row.get("sms_key", ""), row.get("firstname", ""), row.get("sms_opt_out") == "true"
            )
            for row in self.stub.records("contacts")
        ]

    def activities(self) -> list[Activity]:
        keys, links = self._keys(), self._links()
        return [
            Activity(row["event_id"], row.get("name", ""), within(keys, *links[row["id"]]))
            for row in self.stub.records("2-123")
        ]

    def _links(self) -> defaultdict[str, list[str]]:
        """The contacts that a record is tied to."""
        links: defaultdict[str, list[str]] = defaultdict(list)
        for link in self.stub.records("associations"):
            links[link["from"]].append(link["to"])
        return links

    def written(self) -> int:
        return len(self.stub.shelves["2-123"].records)

    def throttled(self) -> int:
        return sum(call.status == 429 for call in self.stub.calls)


class HubSpotEvents(HubSpot):
    """An account whose activities are custom events, each known by its uuid for a year."""

    refusals = HubSpot.refusals | {"note": "256 characters"}

    def activity(self) -> dict[str, Any]:
        return {"event": {"name": "pe123_sms", "map": {"type": NUMBER, "message": NOTE}}}

    def activities(self) -> list[Activity]:
        keys = self._keys()
        return [
            Activity(each["uuid"], each["properties"]["type"], within(keys, each["objectId"]))
            for each in self.stub.records("events")
        ]

    def written(self) -> int:
        return len(self.stub.events)


class HubSpotLog(HubSpot):
    """An account whose activities are communications, and each contact is in a list.

    Without the property that makes them unique they are written at least once.
    """

    def __init__(self, *, unique: bool = True, **more: Any) -> None:
        super().__init__(**more)
        known = self.stub.fields["communications"]
        known["hs_communication_body"].length = 100
        if unique:
            known["sms_event_id"] = Field(unique=True)
        self.stub.lists["7"] = RecordList("Texted")

    def plain_options(self, url: str) -> dict[str, Any]:
        return super().plain_options(url) | {"lists": [7]}

    def activity(self) -> dict[str, Any]:
        return {"communication": {"body": f"{{{{ id }}}} {NUMBER} {NOTE}"}}

    def activities(self) -> list[Activity]:
        keys, links = self._keys(), self._links()
        told = [
            (row["hs_communication_body"].split(), row["id"])
            for row in self.stub.records("communications")
        ]
        return [Activity(*words[:2], within(keys, *links[id_])) for words, id_ in told]

    def written(self) -> int:
        return len(self.stub.shelves["communications"].records)

    def members(self) -> list[str]:
        return self.stub.lists["7"].members


def within(keys: dict[str, str], *ids: str | None) -> dict[str, str]:
    """The keys of these contacts, by id; a contact that is not there has none."""
    return {known: keys.get(known, "") for known in ids if known}


def as_yaml(sinks: dict[str, Any]) -> str:
    """As it stands below `sinks:`. JSON is YAML, and no value changes its type by the way."""
    return (
        yaml.safe_dump(sinks, allow_unicode=True, width=1000)
        .replace("\n", "\n  ")
        .join(("  ", "\n"))
    )
