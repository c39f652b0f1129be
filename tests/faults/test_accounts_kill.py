"""A kill as soon as a refresh token has been replaced: the next start knows the new one."""

import signal

import pytest
from oracle import Senders
from relays import RUN, Relay
from stubs.hubspot import HubSpotStub
from stubs.vendor import serving

SINK = """
  crm:
    plugin: hubspot
    map: {{firstname: Ann, mobilephone: "{{{{ data.mobile }}}}"}}
    options:
      base_url: {url}
      oauth: {{client_id: client, client_secret: secret, refresh_token: refresh-1}}
    allow_private: [127.0.0.0/8]
    retry: {{initial: 50ms, max: 1s}}
"""
DOOMED = ("-m", "doomed", "relay.account.Account.keep:after:1", "run")
UNKEPT = ("-m", "unkept")


async def life(relay, stub, calls):
    """A start, an event, and a kill once HubSpot has had so many calls, or by itself."""
    await relay.start()
    await relay.fresh(Senders())
    if calls:
        await stub.called(calls)
        relay.kill()
    else:
        assert await relay.ended() == -signal.SIGKILL, relay.last_words()
        assert "killed at relay.account" in relay.last_words()


@pytest.mark.parametrize(
    ("command", "calls"), [(DOOMED, 0), (RUN, 2)], ids=["before it is used", "while it is used"]
)
async def test_a_refresh_token_outlives_a_kill(tmp_path, command, calls):
    stub = HubSpotStub()
    async with serving(stub.app) as url:
        relay = Relay(tmp_path, archive=False, sinks=SINK.format(url=url), command=command)
        try:
            await life(relay, stub, calls)
            assert stub.access.refresh_tokens == {"refresh-2"}
            relay.command = list(RUN)
            await relay.finish(Senders())
        finally:
            relay.close()
    assert stub.access.refresh_tokens == {"refresh-3"}
    assert [call.status for call in stub.calls if "/oauth/" in call.path] == [200, 200]


async def test_one_that_is_not_kept_is_lost(tmp_path):
    stub = HubSpotStub()
    async with serving(stub.app) as url:
        relay = Relay(tmp_path, archive=False, sinks=SINK.format(url=url), command=UNKEPT)
        try:
            await life(relay, stub, 2)
            seen = len(stub.calls)
            await relay.start()
            await relay.fresh(Senders())
            await stub.called(seen + 1)
        finally:
            relay.close()
    assert [call.status for call in stub.calls if "/oauth/" in call.path][:2] == [200, 400]
