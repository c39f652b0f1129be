"""Two sinks with one account: its limits, its sign-in, and what a restart knows of them."""

import asyncio

import pytest
from crmrelay import OAUTH, command, into_hubspot, into_salesforce, relaying, written
from hubspotsink import TOKEN
from stubs.hubspot import HubSpotStub
from stubs.salesforce import SalesforceStub
from stubs.vendor import serving
from workers import eventually


@pytest.fixture
async def hubspot():
    stub = HubSpotStub()
    async with serving(stub.app) as stub.url:
        yield stub


@pytest.fixture
async def salesforce():
    stub = SalesforceStub()
    async with serving(stub.app) as stub.url:
        yield stub


def refused(stub):
    return [call for call in stub.calls if call.status == 429]


async def test_two_sinks_with_one_token_keep_to_the_searches_of_a_second(tmp_path, hubspot):
    """One search for each record: as many at once as both sinks have workers."""
    small = {"batch": {"size": 1}, "concurrency": 4}
    sinks = {
        key: into_hubspot(hubspot, key, token=TOKEN, match=["key", "phone"]) | small
        for key in ("a", "b")
    }
    async with relaying(tmp_path, sinks) as relay:
        await asyncio.gather(*(relay.send(number) for number in range(10)))
        await relay.delivered(10)
    searches = [call for call in hubspot.calls if call.path.endswith("/search")]
    assert len(searches) == 20
    assert not refused(hubspot)


async def test_searches_for_opt_outs_keep_to_it_too(tmp_path, hubspot):
    small = {"batch": {"size": 1}, "concurrency": 4}
    consent = {"field": "sms_opt_out", "create": False}
    sinks = {
        key: into_hubspot(hubspot, key, token=TOKEN, consent=consent) | small for key in ("a", "b")
    }
    async with relaying(tmp_path, sinks) as relay:
        for number in range(4):  # one after the other, that they do not go as one batch
            await relay.send(number, msg="STOP")
            await asyncio.sleep(0.05)
        await relay.delivered(4)
    assert len([call for call in hubspot.calls if call.path.endswith("/search")]) > 5
    assert not refused(hubspot)


async def test_two_sinks_with_one_token_keep_to_the_calls_of_ten_seconds(tmp_path, hubspot):
    """Those that are under way when nearly all are used count, too."""
    hubspot.burst_most, hubspot.latency = 40, 0.2
    small = {"batch": {"size": 1}, "concurrency": 7}
    sinks = {key: into_hubspot(hubspot, key, token=TOKEN) | small for key in ("a", "b")}
    async with relaying(tmp_path, sinks) as relay:
        await asyncio.gather(*(relay.send(number) for number in range(30)))
        await eventually(lambda: len(hubspot.calls) >= 36)
        await asyncio.sleep(1)
    assert not refused(hubspot)


async def test_what_one_sink_hears_of_the_day_holds_the_other(tmp_path, hubspot):
    hubspot.api_used, hubspot.api_most = 94, 100
    first = into_hubspot(hubspot, "a", token=TOKEN)
    second = into_hubspot(hubspot, "b", token=TOKEN) | {"when": "data.keyword == 'OTHER'"}
    async with relaying(tmp_path, {"first": first, "second": second}) as relay:
        await relay.send(1)
        await eventually(lambda: len(hubspot.records("contacts")) == 1)
        calls = len(hubspot.calls)
        await relay.send(2, key="OTHER")
        await asyncio.sleep(0.5)
        assert len(hubspot.calls) == calls
        states = await relay.states()
    assert "only opt-outs go" in states["second"].reason


async def test_two_apps_of_one_org_share_its_day(tmp_path, salesforce):
    salesforce.api_used, salesforce.api_most = 94, 100
    first = into_salesforce(salesforce)
    second = into_salesforce(salesforce, client_id="another") | {"when": "data.keyword == 'OTHER'"}
    async with relaying(tmp_path, {"first": first, "second": second}) as relay:
        await relay.send(1)
        await eventually(lambda: len(salesforce.records("Contact")) == 1)
        states = await relay.states()
    assert states["second"].quota.used == 95


async def test_two_sinks_with_one_login_sign_in_once(tmp_path, salesforce):
    sinks = {"contacts": into_salesforce(salesforce), "more": into_salesforce(salesforce)}
    async with relaying(tmp_path, sinks) as relay:
        await asyncio.gather(*(relay.send(number) for number in range(5)))
        await relay.delivered(5)
    assert salesforce.sign_ins == 1


async def test_a_sink_with_another_secret_gets_no_token_of_others(tmp_path, salesforce):
    good = into_salesforce(salesforce)
    sinks = {"good": good, "bad": into_salesforce(salesforce, client_secret="wrong")}
    async with relaying(tmp_path, sinks) as relay:
        await relay.send(1)

        async def states():
            found = await relay.states()
            return found["bad"].state == "paused" and (await relay.counts())["good"][1] == 1

        await eventually(states)


async def test_two_sinks_of_one_app_share_the_refresh_token_that_works_once(tmp_path, hubspot):
    """Each would use up that of the other, and HubSpot disconnects who uses one twice."""
    sinks = {key: into_hubspot(hubspot, key, oauth=OAUTH) for key in ("a", "b")}
    async with relaying(tmp_path, sinks) as relay:
        await relay.send(1)
        await relay.delivered(1)
        hubspot.expire_tokens()
        await relay.send(2)
        await relay.delivered(2)
    assert [call.status for call in hubspot.calls if "/oauth/" in call.path] == [200, 200]


async def test_a_new_refresh_token_is_there_after_a_restart(tmp_path, hubspot, caplog, capfd):
    sinks = {"crm": into_hubspot(hubspot, "a", oauth=OAUTH)}
    for number in (1, 2, 3):
        async with relaying(tmp_path, sinks) as relay:
            await relay.send(number)
            await relay.delivered(number)
            states = await relay.states()
    assert "refresh-1" not in hubspot.access.refresh_tokens
    (present,) = hubspot.access.refresh_tokens
    captured = capfd.readouterr()
    assert present not in f"{states}{caplog.text}{captured.out}{captured.err}"
    store = tmp_path / "data/relay.db"
    files = [each for each in store.parent.iterdir() if each.is_file()]
    holding = [each for each in files if present.encode() in each.read_bytes()]
    assert holding
    assert {each.stat().st_mode & 0o777 for each in holding} == {0o600}


@pytest.mark.parametrize("vendor", ["hubspot", "salesforce"])
async def test_what_is_used_of_the_day_is_known_after_a_restart(
    tmp_path, hubspot, salesforce, vendor
):
    stub = hubspot if vendor == "hubspot" else salesforce
    stub.api_used, stub.api_most = 94, 100
    sink = into_hubspot(stub, "a", token=TOKEN) if vendor == "hubspot" else into_salesforce(stub)
    async with relaying(tmp_path, {"crm": sink}) as relay:
        await relay.send(1)
        await relay.delivered(1)
    calls = len(stub.calls)
    async with relaying(tmp_path, {"crm": sink}) as relay:
        await relay.send(2)
        await asyncio.sleep(0.5)
        assert len(stub.calls) == calls
        state = (await relay.states())["crm"]
    assert "only opt-outs go" in state.reason
    assert state.quota.used >= 95


COMMANDS = [("check", "--online"), ("setup", "crm")]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
async def test_a_command_and_the_relay_keep_the_refresh_token_for_each_other(
    tmp_path, hubspot, words
):
    """Each gets a new one, and the one before works no more."""
    sinks = {"crm": into_hubspot(hubspot, oauth=OAUTH)}
    written(tmp_path, sinks)
    await command(tmp_path, *words)
    async with relaying(tmp_path, sinks) as relay:
        await relay.send(1)
        await relay.delivered(1)
        asked = len(hubspot.calls)
        await command(tmp_path, *words)
        assert len(hubspot.calls) > asked
        hubspot.expire_tokens()
        await relay.send(2)
        await relay.delivered(2)
    granted = [call.status for call in hubspot.calls if "/oauth/" in call.path]
    assert set(granted) == {200}
    assert len(granted) >= 3
