"""What only a person can mend pauses a CRM sink: no attempt is spent, and it goes on by itself."""

import asyncio
from contextlib import asynccontextmanager

import pytest
import yaml
from crmstorm import Callback, Line
from crmvendors import HubSpot, Salesforce
from stubs.vendor import serving
from workers import eventually

from relay import service
from relay.clock import SystemClock
from relay.config import loader

SETTINGS = {
    "server": {"listen": "127.0.0.1:0"},
    "admin": {"listen": "127.0.0.1:0"},
    "sources": {"sumotext": {"country": "US"}},
}
ONE_BY_ONE = {"batch": {"size": 1}, "concurrency": 1, "timeout": "1h"}
STEP = 30.0
PROBE, QUARTER = 300, 900


def wrong_secret(org):
    org.client_secret = "another"
    return lambda: setattr(org, "client_secret", "secret")


def frozen_user(org):
    org.expire_tokens()
    org.refuse_sign_in("inactive_user", "user is frozen")
    return org.allow_sign_in


def missing_field(org):
    field = org.fields["Contact"].pop("SMS_Opt_Out__c")
    return lambda: org.fields["Contact"].update(SMS_Opt_Out__c=field)


def used_up_org(org):
    org.api_used = org.api_most
    return lambda: setattr(org, "api_used", 0)


def wrong_app(account):
    account.access._client = ("client", "another")
    return lambda: setattr(account.access, "_client", ("client", "secret"))


def revoked_key(account):
    tokens = dict(account.access.tokens)
    account.access.tokens.clear()
    return lambda: account.access.tokens.update(tokens)


def missing_property(account):
    known = account.fields["contacts"].pop("sms_opt_out")
    return lambda: account.fields["contacts"].update(sms_opt_out=known)


def used_up_account(account):
    account.api_used = account.api_most
    return account.new_day


TROUBLES = [
    (Salesforce, False, wrong_secret, PROBE, ["sign-in", "client_secret"]),
    (Salesforce, False, frozen_user, PROBE, ["inactive_user", "activate the app's Run As user"]),
    (Salesforce, False, missing_field, PROBE, ["SMS_Opt_Out__c", "correct the map, or make"]),
    (Salesforce, False, used_up_org, QUARTER, ["TotalRequests", "goes on by itself"]),
    (HubSpot, False, wrong_app, PROBE, ["BAD_CLIENT_SECRET", "options.oauth"]),
    (HubSpot, True, revoked_key, PROBE, ["INVALID_AUTHENTICATION", "options.token"]),
    (HubSpot, True, missing_property, PROBE, ["sms_opt_out", "relay setup"]),
    (HubSpot, True, used_up_account, QUARTER, ["daily limit", "goes on by itself"]),
]


@pytest.fixture
def moved(clock, monkeypatch):
    """The clock of everything, moved by hand: quotas and time-outs make one for themselves."""
    for name in ("now", "monotonic"):
        monkeypatch.setattr(SystemClock, name, lambda _, name=name: getattr(clock, name)())
    monkeypatch.setattr(SystemClock, "sleep", lambda _, seconds: clock.sleep(seconds))
    return clock


@pytest.mark.parametrize(
    ("vendor", "by_key", "trouble", "wait", "told"),
    TROUBLES,
    ids=[f"{vendor.name}-{trouble.__name__}" for vendor, _, trouble, _, _ in TROUBLES],
)
async def test_trouble_pauses_the_sink_and_costs_no_attempt(
    tmp_path, moved, vendor, by_key, trouble, wait, told
):
    vendor = vendor()
    mend = trouble(vendor.stub)
    async with relaying(tmp_path, vendor, moved, by_key=by_key) as relay:
        ids = [await relay.send(contact) for contact in range(3)]
        reason = await eventually(relay.paused)
        assert all(words in reason for words in told), reason
        print(f"\n{reason}")
        ids += [await relay.send(contact) for contact in range(3, 5)]
        ids.append(await relay.send(5, "STOP"))
        for _ in range(4):
            await moved.advance(wait)
            reason = await eventually(relay.paused)
        assert told[0] in reason, reason
        assert await relay.attempts(ids) <= {0, 1}
        assert not vendor.people()
        mend()
        assert await relay.drained() <= wait + 2 * STEP
        assert await relay.attempts(ids) <= {0, 1}
    people = vendor.people()
    assert people[0].opted_out
    assert len(people) == len(vendor.activities()) == 6


class Relay:
    """The relay in this process, with a clock that is moved by hand."""

    def __init__(self, running, clock):
        self._running = running
        self._clock = clock
        self._sent = 0

    async def send(self, contact, message="hello"):
        self._sent += 1
        callback = Callback(f"{contact}-{self._sent}", contact, message=message)
        async with Line(self._running.address[1], None) as line:
            status, event = await line.post(callback.body())
        assert status == 200
        return event

    def paused(self):
        """Why it is, or nothing."""
        state = self._running._sink_manager.states()["crm"]
        return state.state == "paused" and state.reason

    async def attempts(self, ids):
        """How many the store counts, of each."""
        rows = [await self._running._store.event(each) for each in ids]
        return {each.attempts for row in rows for each in row.deliveries}

    async def drained(self):
        """Seconds of the clock until all is delivered."""
        begun = self._clock.monotonic()
        async with asyncio.timeout(20):
            while (await self._running._store.sink_counts())["crm"].pending:
                if self.paused():
                    await self._clock.advance(STEP)
                await asyncio.sleep(0.02)
        return self._clock.monotonic() - begun


@asynccontextmanager
async def relaying(folder, vendor, clock, *, by_key):
    more = vendor.by_key() if by_key else {}
    async with serving(vendor.app) as url:
        path = folder / "relay.yaml"
        crm = vendor.sink(url, ONE_BY_ONE, **more)
        path.write_text(yaml.safe_dump({**SETTINGS, "sinks": {"crm": crm}}))
        async with service.started(loader.load(path, {}), clock=clock) as running:
            yield Relay(running, clock)
