"""Keep one person for each contact in Acme, a CRM that nobody has."""

from dataclasses import dataclass
from typing import Any

import pydantic

import relay
from relay import Delivered, NotDelivered, crm
from relay.crm import Action, Rule

MOST = 100
RULES = (
    Rule(Action.RETRY, status=frozenset({429, *range(500, 600)})),
    Rule(Action.PAUSE, code=frozenset({"NO_FIELD"}), advice="make the field in Acme"),
    Rule(Action.SPLIT, code=frozenset({"BAD_PERSON"})),
    Rule(Action.DEAD),
)
OUTCOMES = {Action.RETRY: relay.Retry, Action.PAUSE: relay.Pause}


@dataclass(slots=True, eq=False)
class Person:
    key: str
    fields: dict[str, Any]
    id: str | None = None
    outcome: relay.Outcome | None = None


class Options(relay.Options):
    url: relay.VendorUrl
    secret: relay.Key
    key: relay.Template = pydantic.Field("{{ data.mobile | digits }}", validate_default=True)
    country: relay.Country = "US"
    quota: crm.QuotaShare = crm.QuotaShare()
    consent: crm.Consent | None = None


class SignIn:
    def __init__(self) -> None:
        self.token: str | None = None
        self.flight: crm.SingleFlight[str] = crm.SingleFlight()


class Acme(relay.Sink):
    Options = Options
    max_batch = MOST
    blank = "omit"

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        account = self.account("acme", self.options.url, self.options.secret.get_secret_value())
        self.quota = account.quota(share=self.options.quota.share)
        self._sign_in = account.shared("sign-in", SignIn)

    @classmethod
    def takes_consent(cls, options: Any, event: relay.Event) -> bool:
        return options.consent is not None and options.consent.takes(event)

    async def send_batch(self, deliveries):
        words = {each.id: crm.ConsentWrite(each, self._key(each)) for each in deliveries}
        words = {known: word for known, word in words.items() if word.delivery.last_word}
        if words:
            await self._write_consent(list(words.values()))
        people = {
            each.id: Person(self._key(each), crm.without_consent(each.record, self.options.consent))
            for each in deliveries
            if each.record is not None
        }
        await self._upsert(people.values())
        ends = [
            [part[each.id].outcome for part in (people, words) if each.id in part]
            for each in deliveries
        ]
        return [min(end, key=lambda each: isinstance(each, Delivered)) for end in ends]

    def _key(self, delivery):
        return self.options.key.render(delivery.event).strip()

    async def _write_consent(self, writes):
        """To each person with the number, by key or by phone; to a new one where there is none."""
        asked = {"keys": [each.key for each in writes], "phones": [each.mobile for each in writes]}
        found = (await self._call("POST", "/people/search", asked)).json()["people"]
        for each in writes:
            values = self.options.consent.values(each.delivery.last_word)
            each.records = [
                Person(person["key"] or each.key, values, person["id"])
                for person in found
                if each.key == person["key"]
                or relay.e164(person["phone"], self.options.country) == each.mobile
            ] or [Person(each.key, {"phone": each.mobile} | values)]
        await self._upsert([record for each in writes for record in each.records])
        for each in writes:
            each.conclude()

    async def _upsert(self, people):
        """Give each person an outcome; no request has a person twice."""
        for group in crm.distinct_groups(people, lambda person: person.id or person.key):
            parts = crm.Bisection(group, MOST)
            while parts:
                part = parts.next()
                parts.put(await self._send(part))
                refused = [each for each in part if isinstance(each.outcome, NotDelivered)]
                accepted = any(isinstance(each.outcome, Delivered) for each in part)
                parts.note(accepted=accepted, refused=len(refused))
                if parts.hopeless:
                    for person in parts.rest():
                        person.outcome = relay.Pause(f"each is refused: {refused[0].outcome}")
                    break

    async def _send(self, part):
        """One request. Returns the parts to send in its place, where one may be at fault."""
        content = {"people": [{"id": each.id, "key": each.key} | each.fields for each in part]}
        response = await self._call("POST", "/people/batch", content)
        answer = crm.read_json(response.content)
        if response.is_success:
            for person, known in zip(part, answer["ids"], strict=True):
                person.outcome = Delivered(known)
            return []
        rule = crm.find(RULES, response.status_code, answer["code"], answer["message"])
        if rule.action is Action.SPLIT and len(part) > 1:
            return crm.halves(part)
        words = crm.redacted(answer["message"], [v for p in part for v in p.fields.values()])
        for person in part:
            person.outcome = OUTCOMES.get(rule.action, relay.Reject)(f"{words}; {rule.advice}")
        return []

    async def setup(self, *, backfill=False, progress=relay.no_progress):
        """Give the people who are there the key of their number."""
        owners, pages, after = crm.KeyOwners(), crm.Pages(1000), ""
        while backfill:
            page = (await self._call("GET", f"/people?after={after}")).json()
            for person in page["people"]:
                number = relay.e164(person["phone"], self.options.country)
                if number and not person["key"]:
                    owners.add(crm.key_of_number(self.options.key, number, "US"), person["id"])
            if (after := page["next"]) is None:
                break
            pages.turn(after, len(page["people"]))
        given = 0
        while owners:
            people = [Person(key, {}, known) for key, known in owners.take(MOST)]
            await self._upsert(people)
            given += sum(isinstance(each.outcome, Delivered) for each in people)
            progress(given, None)
        return [f"{given} people have got their key, {len(owners.shared)} numbers are shared"]

    async def _call(self, method: str, path: str, content: Any = None) -> Any:
        for _ in range(2):
            token = self._sign_in.token or await self._sign_in.flight.run(self._signed_in)
            async with self.quota.call():
                response = await self.http.request(
                    method,
                    self.options.url + path,
                    json=content,
                    headers={"authorization": f"Bearer {token}"},
                )
            if response.status_code != 401:
                return response
            self._sign_in.token = None
        raise relay.Pause("a new token is refused; see the sign-in of Acme")

    async def _signed_in(self) -> str:
        form = {"secret": self.options.secret.get_secret_value()}
        response = await self.http.post(self.options.url + "/token", data=form)
        response.raise_for_status()
        self._sign_in.token = response.json()["token"]
        return self._sign_in.token


@relay.hookimpl
def register_sinks(register):
    register("acme", Acme)
