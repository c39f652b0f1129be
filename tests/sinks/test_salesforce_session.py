"""Signing in to Salesforce: both flows, tokens that end, and what goes wrong with them."""

import asyncio
import logging

import pydantic
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from salesforcesink import (
    client_module,
    connected,
    data_calls,
    delivered,
    deliveries,
    delivery,
    options,
)
from stubs.salesforce import SalesforceStub
from stubs.vendor import serving

import relay
from relay.send_context import SendContext, entered

PEM = "-----BEGIN PRIVATE KEY-----"


def sign_ins(stub):
    return [call for call in stub.calls if "/oauth2/" in call.path]


@pytest.fixture(scope="module")
def pair():
    """A private and a public key as PEM."""
    key = rsa.generate_private_key(65537, 2048)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private.decode(), public


PEM = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
"""It has the form of a key; nothing is signed with it."""


def jwt_options(private, **more):
    given = {"username": "relay@acme.example", "key": private}
    return {"client_secret": None, "jwt": given | more}


async def test_one_sign_in_serves_many_batches():
    async with connected() as (stub, sink):
        for number in range(3):
            await sink.send_batch([delivery(number)])
    assert len(sign_ins(stub)) == 1


async def test_batches_that_come_together_sign_in_once():
    async with connected() as (stub, sink):
        await asyncio.gather(*(sink.send_batch([delivery(n)]) for n in range(4)))
    assert len(sign_ins(stub)) == 1
    assert len(stub.records("Contact")) == 4


async def test_a_jwt_signs_in(pair):
    private, public = pair
    stub = SalesforceStub(jwt_key=public)
    async with connected(stub, **jwt_options(private)) as (_, sink):
        assert delivered(await sink.send_batch([delivery(1)])) == [True]


async def test_a_jwt_of_nobody_who_is_approved_pauses(pair):
    private, public = pair
    stub = SalesforceStub(jwt_key=public)
    async with connected(stub, **jwt_options(private, username="who")) as (_, sink):
        (outcome,) = await sink.send_batch([delivery(1)])
    assert type(outcome) is relay.Pause
    assert "pre-authorized" in outcome.reason


async def test_a_key_that_is_none_pauses_and_is_not_shown():
    async with connected(**jwt_options("-----BEGIN nonsense")) as (stub, sink):
        (outcome,) = await sink.send_batch([delivery(1)])
    assert type(outcome) is relay.Pause
    assert "jwt.key" in outcome.reason
    assert "nonsense" not in outcome.reason
    assert stub.calls == []


async def test_a_token_that_ends_under_four_batches_is_renewed_once():
    async with connected() as (stub, sink):
        await sink.send_batch([delivery(0)])
        stub.expire_tokens()
        batches = [deliveries(*range(n, n + 50)) for n in (100, 200, 300, 400)]
        outcomes = await asyncio.gather(*map(sink.send_batch, batches))
        statuses = [call.status for call in stub.calls if "/composite/" in call.path]
    assert all(all(delivered(each)) for each in outcomes)
    assert len(sign_ins(stub)) == 2
    assert statuses.count(401) in range(1, 5)
    assert statuses.count(200) == 5
    assert len(stub.records("Contact")) == 201


async def test_a_token_that_ends_between_contact_and_activity_harms_nothing():
    activity = {
        "object": "SMS_Event__c",
        "external_id": "Event_Id__c",
        "contact": "Contact__r",
        "map": {},
    }
    async with connected(activity=activity) as (stub, sink):
        stub.fault("expired", on="/SMS_Event__c/")
        assert delivered(await sink.send_batch([delivery(1)])) == [True]
    assert len(sign_ins(stub)) == 2
    assert len(stub.records("Contact")) == len(stub.records("SMS_Event__c")) == 1


async def test_a_new_token_that_is_refused_pauses():
    async with connected() as (stub, sink):
        stub.fault("expired", count=2)
        (outcome,) = await sink.send_batch([delivery(1)])
        assert type(outcome) is relay.Pause
        assert len(sign_ins(stub)) == 2
        assert delivered(await sink.send_batch([delivery(1)])) == [True]


async def test_the_instance_of_each_sign_in_is_asked():
    """An org that moved says so with the next token."""
    async with serving(SalesforceStub().app) as elsewhere, connected() as (stub, sink):
        await sink.send_batch([delivery(1)])
        stub.instance_url = elsewhere
        stub.expire_tokens()
        (outcome,) = await sink.send_batch([delivery(2)])
    # The other org does not know the token: what counts is that it was asked.
    assert type(outcome) is relay.Pause
    assert len(stub.records("Contact")) == 1


@pytest.mark.parametrize("url", ["http://acme.example", "http://a:b", "acme.example", "//x"])
async def test_a_token_goes_nowhere_without_tls(url):
    async with connected() as (stub, sink):
        stub.instance_url = url
        (outcome,) = await sink.send_batch([delivery(1)])
    assert type(outcome) is relay.Pause
    assert "https" in outcome.reason
    assert data_calls(stub) == []


@pytest.mark.parametrize(
    ("error", "description", "advice"),
    [
        ("invalid_client", "invalid client credentials", "client_secret"),
        ("invalid_client_id", "client identifier invalid", "client_id"),
        ("invalid_grant", "no client credentials user enabled", "Run As"),
        ("invalid_app_access", None, "approve"),
        ("unheard_of", None, "correct"),
    ],
)
async def test_a_sign_in_that_is_refused_pauses_with_what_to_do(error, description, advice):
    async with connected() as (stub, sink):
        stub.refuse_sign_in(error, description)
        (outcome,) = await sink.send_batch([delivery(1)])
        assert type(outcome) is relay.Pause
        assert error in outcome.reason
        assert advice in outcome.reason
        assert "secret" not in outcome.reason.replace("client_secret", "")
        stub.allow_sign_in()
        assert delivered(await sink.send_batch([delivery(1)])) == [True]


TOO_OFTEN = ("invalid_grant", "login rate exceeded")


@pytest.mark.parametrize(
    ("flow", "told", "advice"),
    [
        ("secret", ("invalid_grant", None), "client credentials flow is enabled"),
        ("secret", TOO_OFTEN, "the app's Run As user has signed in more than"),
        ("jwt", ("invalid_grant", None), "jwt.key against the app's certificate"),
        ("jwt", TOO_OFTEN, "jwt.username has signed in more than"),
    ],
)
async def test_the_advice_fits_the_flow(pair, flow, told, advice):
    private, public = pair
    more = jwt_options(private) if flow == "jwt" else {}
    async with connected(SalesforceStub(jwt_key=public), **more) as (stub, sink):
        stub.refuse_sign_in(*told)
        (outcome,) = await sink.send_batch([delivery(1)])
    assert isinstance(outcome, relay.Pause)
    assert advice in outcome.reason
    assert ("client_secret" if flow == "jwt" else "jwt") not in outcome.reason
    assert outcome.after == (300.0 if told == TOO_OFTEN else None)


async def test_a_wrong_secret_is_tried_once_for_all_who_ask_together():
    async with connected(client_secret="wrong") as (stub, sink):
        outcomes = await asyncio.gather(*(sink.send_batch([delivery(n)]) for n in range(4)))
    assert [type(each) for (each,) in outcomes] == [relay.Pause] * 4
    assert len(sign_ins(stub)) == 1


async def test_too_many_sign_ins_wait_a_minute():
    async with connected() as (stub, sink):
        stub.refuse_sign_in("rate_limit_exceeded")
        (outcome,) = await sink.send_batch([delivery(1)])
    assert type(outcome) is relay.Retry
    assert outcome.after == 60.0


async def test_a_sign_in_that_is_cut_off_is_tried_again():
    async with connected() as (stub, sink):
        stub.fault("drop", on="/oauth2/")
        (outcome,) = await sink.send_batch([delivery(1)])
        assert type(outcome) is relay.Retry
        assert delivered(await sink.send_batch([delivery(1)])) == [True]


async def test_nothing_secret_is_logged_or_shown(caplog):
    caplog.set_level(logging.DEBUG)
    async with connected() as (stub, sink):
        await sink.send_batch([delivery(1)])
        shown = repr(sink._client._sign_in.token) + repr(sink.options) + caplog.text
        (token,) = stub.tokens
    assert token not in shown
    assert "'secret'" not in shown
    assert "5550001" not in shown


async def test_the_quota_is_read_off_every_answer():
    async with connected(quota={"share": 0.5}) as (stub, sink):
        await sink.send_batch([delivery(1)])
        assert sink.quota.status()["used"] == 1
        assert sink.quota.bulk_wait() == 0.0
        stub.api_used = 50_000
        await sink.send_batch([delivery(2)])
        assert sink.quota.bulk_wait() > 0.0


async def test_an_opt_out_does_not_wait_for_the_quota():
    async with connected() as (stub, sink):
        stub.api_used = 95_000
        await sink.send_batch([delivery(1)])
        assert sink.quota.bulk_wait() > 0.0
        with entered(SendContext(urgent=True)):
            assert delivered(await sink.send_batch([delivery(2)])) == [True]


async def test_the_end_of_the_quota_pauses_and_says_so():
    async with connected() as (stub, sink):
        stub.api_used = stub.api_most
        (outcome,) = await sink.send_batch([delivery(1)])
        assert type(outcome) is relay.Pause
        assert outcome.after == 900.0
        assert "API calls" in outcome.reason
        assert sink.quota.bulk_wait() > 0.0


def wrong(**values):
    with pytest.raises(pydantic.ValidationError) as raised:
        options(**{"url": "https://acme.my.salesforce.com"} | values)
    return str(raised.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"url": "http://acme.example"}, "https"),
        ({"url": "https://acme.example/path"}, "login_url"),
        ({"url": "https://u:p@acme.example"}, "login_url"),
        ({"url": "https://login.salesforce.com"}, "My Domain"),
        ({"client_secret": None}, "either"),
        ({"jwt": {"username": "u", "key": PEM}}, "either"),
        ({"match": ["phone"]}, "[key]"),
        ({"match": ["key", "phone"], "phone_fields": []}, "phone_fields"),
        ({"object": "SMS_Vote__c", "campaign": {"id": "701000000000001"}}, "campaign"),
        ({"campaign": {"id": "7"}}, "campaign"),
        ({"object": "Contact; DROP"}, "object"),
        ({"external_id": "a b"}, "external_id"),
        ({"api_version": "66"}, "api_version"),
        ({"key": "{{ data."}, "key"),
        ({"country": "Nowhere"}, "country"),
        ({"quota": {"share": 2}}, "share"),
        ({"defaults": {"Last Name": "x"}}, "defaults"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"activity": {"object": "A__c"}}, "external_id"),
    ],
)
def test_mistakes_in_the_options_are_told_at_the_start(values, message):
    assert message in wrong(**values)


def test_the_shared_login_is_for_jwt_alone():
    assert options("https://login.salesforce.com", **jwt_options(PEM))
    assert options("http://localhost:8091").login_url == "http://localhost:8091"
    assert options("https://acme.my.salesforce.com/").login_url.endswith(".com")


@pytest.mark.parametrize(
    ("host", "audience"),
    [
        ("acme.my", "login"),
        ("login", "login"),
        ("test", "test"),
        ("acme--uat.sandbox.my", "test"),
    ],
)
def test_a_jwt_is_for_the_login_host(host, audience):
    made = options(f"https://{host}.salesforce.com", **jwt_options(PEM))
    assert made.audience() == f"https://{audience}.salesforce.com"
    made = options(f"https://{host}.salesforce.com", **jwt_options(PEM, audience="https://x"))
    assert made.audience() == "https://x"


def test_used_calls_are_found_among_others_in_the_header():
    header = "api-usage=10018/100000; per-app-api-usage=17/250(appName=sample-app)"
    assert client_module.USAGE.search(header).groups() == ("10018", "100000")
    assert client_module.USAGE.search("per-app-api-usage=17/250(appName=x)") is None
    assert client_module.USAGE.search(f"api-usage=1/{'9' * 400}") is None
