"""How the hubspot sink signs in, and how it keeps to what HubSpot allows."""

import asyncio
import random
from functools import partial

import httpx
import pydantic
import pytest
from clock import ManualClock
from hubspotsink import TOKEN, delivery, kinds, module, opened, options
from stubs.hubspot import HubSpotStub
from stubs.vendor import serving

import relay
from relay.account import Accounts
from relay.quota import Quota
from relay.send_context import SendContext, entered

OAUTH = {"client_id": "client", "client_secret": "secret", "refresh_token": "refresh-1"}


@pytest.fixture
async def stub():
    stub = HubSpotStub()
    async with serving(stub.app) as stub.url:
        yield stub


def tokens_asked(stub):
    return [call.status for call in stub.calls if "/oauth/" in call.path]


@pytest.mark.parametrize("version", ["v3", "2026-09"])
async def test_oauth_signs_in_once_for_many(stub, version):
    async with opened(stub.url, oauth=OAUTH, api_version=version) as sink:
        batches = [[delivery(number)] for number in range(10)]
        outcomes = await asyncio.gather(*map(sink.send_batch, batches))
    assert {kinds(each)[0] for each in outcomes} == {"Delivered"}
    assert tokens_asked(stub) == [200]


async def test_an_expired_token_is_renewed_and_the_request_made_again(stub):
    async with opened(stub.url, oauth=OAUTH) as sink:
        await sink.send_batch([delivery(1)])
        stub.expire_tokens()
        batches = [[delivery(number)] for number in range(2, 8)]
        outcomes = await asyncio.gather(*map(sink.send_batch, batches))
    assert {kinds(each)[0] for each in outcomes} == {"Delivered"}
    assert tokens_asked(stub) == [200, 200]
    assert len(stub.records("contacts")) == 7


async def test_a_new_refresh_token_is_used_and_not_shown(stub, caplog):
    async with opened(stub.url, oauth=OAUTH) as sink:
        for number in (1, 2, 3):
            assert kinds(await sink.send_batch([delivery(number)])) == ["Delivered"]
            stub.expire_tokens()
    assert tokens_asked(stub) == [200, 200, 200]
    assert "refresh-" not in caplog.text


async def test_a_token_that_expires_twice_pauses(stub):
    stub.fault("expired", count=2)
    async with opened(stub.url, oauth=OAUTH) as sink:
        assert kinds(await sink.send_batch([delivery(1)])) == ["Pause"]


@pytest.mark.parametrize(
    ("fault", "advice"),
    [
        ("bad_refresh_token", "connect the app"),
        ("bad_hub", "connect the app"),
        ("bad_client_secret", "the app's own id and secret"),
    ],
)
async def test_a_grant_that_is_refused_pauses_and_says_what_to_do(stub, fault, advice):
    stub.fault(fault)
    async with opened(stub.url, oauth=OAUTH) as sink:
        (outcome,) = await sink.send_batch([delivery(1)])
    assert isinstance(outcome, relay.Pause)
    assert advice in outcome.reason
    assert "refresh-1" not in outcome.reason


@pytest.mark.parametrize(
    ("flow", "fault", "advice"),
    [
        ("token", "401", "options.token"),
        ("token", "malformed_token", "options.token"),
        ("oauth", "401", "connect the app"),
        ("oauth", "malformed_token", "connect the app"),
        ("oauth", "bare_grant", "options.oauth.client_id is that of the app"),
        ("oauth", "oauth_throttle", "an app of its own"),
    ],
)
async def test_the_advice_fits_the_flow(stub, flow, fault, advice):
    stub.fault(fault)
    async with opened(stub.url, **{"oauth": OAUTH} if flow == "oauth" else {}) as sink:
        (outcome,) = await sink.send_batch([delivery(1)])
        assert stub.fired[fault] == 1
    assert advice in outcome.reason
    assert flow == "token" or "a working key into options.token" not in outcome.reason


async def test_a_throttled_sign_in_holds_the_sink(stub):
    stub.fault("oauth_throttle")
    async with opened(stub.url, oauth=OAUTH) as sink:
        (outcome,) = await sink.send_batch([delivery(1)])
    assert isinstance(outcome, relay.Retry)
    assert 10 <= outcome.after <= 12


@pytest.mark.parametrize("fault", ["drop", "503"])
async def test_where_no_token_is_to_be_had_it_is_tried_again(stub, fault):
    stub.fault(fault, on="/oauth/")
    async with opened(stub.url, oauth=OAUTH) as sink:
        assert kinds(await sink.send_batch([delivery(1)])) == ["Retry"]
        assert kinds(await sink.send_batch([delivery(1)])) == ["Delivered"]


# In time


class Granting:
    """A token endpoint: gives token after token, or fails."""

    def __init__(self):
        self.asked = 0
        self.problem = None

    async def __call__(self, form):
        assert form["grant_type"] == "refresh_token"
        self.asked += 1
        if self.problem:
            raise module("client").NoToken(self.problem)
        return {"access_token": f"access-{self.asked}", "expires_in": 1800}


class Tokens:
    """Those of an account, asked for by one sink."""

    def __init__(self, tokens, grant):
        self.refused = tokens.refused
        self.current = partial(tokens.current, grant)


@pytest.fixture
def granting():
    return Granting()


@pytest.fixture
def tokens(granting, clock):
    account = Accounts(clock=clock).of("hubspot")
    return Tokens(
        module("client").OAuthTokens(options(oauth=OAUTH).oauth, account, clock), granting
    )


async def test_a_token_is_renewed_before_it_expires(tokens, granting, clock: ManualClock):
    assert await tokens.current() == "access-1"
    await clock.advance(1439)
    assert await tokens.current() == "access-1"
    await clock.advance(2)
    assert await tokens.current() == "access-2"


async def test_while_no_new_one_is_to_be_had_the_old_one_serves(tokens, granting, clock):
    await tokens.current()
    await clock.advance(1500)
    granting.problem = module("errors").no_answer("closed")
    assert await tokens.current() == "access-1"
    assert await tokens.current() == "access-1"
    assert granting.asked == 2
    await clock.advance(301)
    with pytest.raises(module("client").NoToken):
        await tokens.current()


async def test_a_refused_token_is_thrown_away_once(tokens, granting):
    first = await tokens.current()
    assert tokens.refused(first)
    second = await tokens.current()
    assert tokens.refused(first)
    assert await tokens.current() == second == "access-2"


# Options


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"token": None}, "either token or oauth"),
        ({"token": TOKEN, "oauth": OAUTH}, "either token or oauth"),
        ({"token": "two words"}, "without spaces"),
        ({"base_url": "http://hubspot.example"}, "https://"),
        ({"base_url": "https://user:pass@hubspot.example"}, "https:// and a host"),
        ({"base_url": "https://a\nb"}, "URL"),
        ({"base_url": "https://"}, "https://"),
        ({"api_version": "v4"}, "pattern"),
        ({"match": ["phone"]}, "begin with key"),
        ({"match": ["key", "phone", "phone"]}, "each once"),
        ({"id_property": "email"}, "of your own"),
        ({"country": "Neverland"}, "country"),
        ({"quota": {"share": 1.1}}, "less than or equal to 1"),
        ({"defaults": ["x"]}, "dictionary"),
        ({"tokn": "x"}, "Extra inputs"),
    ],
)
def test_wrong_options_are_refused(values, message):
    with pytest.raises(pydantic.ValidationError, match=message):
        options(**values)


def test_no_secret_is_shown():
    assert TOKEN not in repr(options())
    assert "refresh-1" not in repr(options(oauth=OAUTH))


def test_defaults_are_text():
    assert options(defaults={"a": True, "b": 3}).defaults == {"a": "true", "b": "3"}


# The quota


async def test_what_is_used_of_the_day_is_known(stub):
    stub.api_used, stub.api_most = 562_499, 625_000
    async with opened(stub.url) as sink:
        await sink.send_batch([delivery(1)])
        status = sink.quota.status()
    assert (status["used"], status["most"]) == (562_500, 625_000)
    assert status["until"]


def test_numbers_too_long_for_any_account_are_none():
    headers = httpx.Headers(
        {
            "x-hubspot-ratelimit-daily": "9" * 400,
            "x-hubspot-ratelimit-max": "9" * 5000,
            "x-hubspot-ratelimit-remaining": "19",
        }
    )
    assert module("client")._numbers(headers) == {"remaining": 19}


class Ungoverned(Quota):
    """A control: what happens without a governor."""

    async def acquire(self):
        return


async def flood(stub, quota=None):
    """Two hundred batches, four at a time, where twenty calls in ten seconds are allowed."""
    stub.burst_most = 40
    clock = ManualClock()
    stub.clock = clock
    async with opened(stub.url) as sink:
        sink.quota = sink._client._quota = quota or Quota(clock)
        turns = asyncio.Semaphore(4)

        async def send(number):
            async with turns:
                return await sink.send_batch([delivery(number)])

        sending = asyncio.gather(*(send(number) for number in range(100)))
        while not sending.done():
            await asyncio.sleep(0.01)
            await clock.advance(random.uniform(0.05, 0.2))
        return [kinds(each)[0] for each in await sending]


async def test_with_the_governor_nothing_is_throttled(stub):
    outcomes = await flood(stub)
    assert {call.status for call in stub.calls} == {200}
    assert set(outcomes) == {"Delivered"}


async def test_without_it_much_is_throttled(stub):
    await flood(stub, Ungoverned())
    throttled = [call for call in stub.calls if call.status == 429]
    assert len(throttled) > 10


async def test_an_opt_out_does_not_wait(stub):
    clock = ManualClock()
    async with opened(stub.url) as sink:
        sink._client._quota = Quota(clock)
        sink._client._quota.burst(0, 100, 10.0)
        waiting = asyncio.ensure_future(sink.send_batch([delivery(1)]))
        with entered(SendContext(urgent=True)):
            assert kinds(await sink.send_batch([delivery(2)])) == ["Delivered"]
        assert not waiting.done()
        await clock.advance(10)
        assert kinds(await waiting) == ["Delivered"]


async def test_after_a_refusal_the_other_workers_wait_too(stub):
    stub.fault("throttle")
    clock = ManualClock()
    async with opened(stub.url) as sink:
        sink._client._quota = Quota(clock)
        await sink.send_batch([delivery(1)])
        waiting = asyncio.ensure_future(sink.send_batch([delivery(2)]))
        await asyncio.sleep(0.05)
        assert len(stub.calls) == 1
        await clock.advance(12)
        assert kinds(await waiting) == ["Delivered"]
