"""Alerts by a real webhook and by real mail, and over the whole way: what is wrong, told, over."""

import asyncio
import contextlib
import datetime as dt
import json
import logging
import ssl
import threading

import httpx
import pytest
import yaml
from clock import settle
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from mailserver import mail_server
from relaying import SETTINGS
from standardwebhooks import Webhook as Verifier
from stubs.receiver import Receiver, hang, status
from watching import NOW

from relay import service
from relay.alerts import notifiers
from relay.alerts.monitor import EVALUATE_EVERY, AlertMonitor
from relay.alerts.notifiers import EmailNotifier, NotificationFailed, WebhookNotifier
from relay.alerts.policy import MIN_GAP, Alert, Notification
from relay.config import loader
from relay.config.model import AlertEmail, AlertWebhook

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PASSWORD = "open sesame"
LOOPBACK = ["127.0.0.0/8"]


@pytest.fixture
def note():
    alert = Alert("spill", "", "Callbacks go to the spill file.", NOW, NOW)
    return Notification(NOW, [alert], [], [])


@pytest.fixture
async def receiver():
    async with Receiver() as receiver:
        yield receiver


def webhook(receiver, **options):
    given = {"url": receiver.url, "secrets": [SECRET], "allow_private": LOOPBACK} | options
    return WebhookNotifier(AlertWebhook.model_validate(given))


def mailbox(mails, **options):
    given = {"host": "127.0.0.1", "port": mails.port, "security": "none"}
    given |= {"from": "relay@example.com", "to": ["ops@example.com", "boss@example.com"]}
    return EmailNotifier(AlertEmail.model_validate(given | options))


# the webhook


async def test_a_webhook_gets_json_that_an_independent_package_verifies(receiver, note):
    hook = webhook(receiver)
    await hook.send(note)
    await hook.close()
    (got,) = receiver.requests
    verified = Verifier(SECRET).verify(got.body, got.headers)
    assert verified["data"]["new"][0]["rule"] == "spill"
    assert got.headers["content-type"] == "application/json"


@pytest.mark.parametrize("answer", [status(500), status(302), hang])
async def test_a_webhook_that_does_not_take_it_says_why(receiver, note, answer, monkeypatch):
    monkeypatch.setattr(notifiers, "WEBHOOK_TIMEOUT", 2)
    receiver.otherwise = answer
    hook = webhook(receiver)
    with pytest.raises(NotificationFailed, match=r"answered|in time"):
        await hook.send(note)
    await hook.close()
    assert len(receiver.requests) == 1


async def test_a_webhook_dials_no_private_address_unless_it_is_allowed(receiver, note):
    hook = webhook(receiver, allow_private=[])
    with pytest.raises(NotificationFailed, match="loopback"):
        await hook.send(note)
    await hook.close()
    assert receiver.connections == 0


# mail


async def test_a_mail_says_what_is_wrong_to_everybody_named(note):
    async with mail_server() as mails:
        await mailbox(mails).send(note)
        mail = await mails.next()
    assert mail["Subject"].endswith("] spill")
    assert (mail["From"], mail["To"]) == ("relay@example.com", "ops@example.com, boss@example.com")
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Message-ID"].endswith("@example.com>")
    assert "- Callbacks go to the spill file. (spill, since 2027-" in mail.get_content()
    assert mails.recipients == [["ops@example.com", "boss@example.com"]]


async def test_a_server_that_refuses_is_named_but_not_quoted(note):
    async with mail_server() as mails:
        mails.answer = "554 no mail about relay@example.com"
        with pytest.raises(
            NotificationFailed, match=rf"^127\.0\.0\.1:{mails.port}: SMTPDataError 554$"
        ):
            await mailbox(mails).send(note)


@pytest.fixture
async def dripping():
    """The port of a server that says a letter at a time and comes to no end; who hung up on it."""
    gone = asyncio.Event()

    async def drip(_reader, writer):
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"2")
                await writer.drain()
                await asyncio.sleep(0.05)
        gone.set()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], gone


async def test_a_server_that_says_a_letter_at_a_time_is_hung_up_on(note, dripping, monkeypatch):
    monkeypatch.setattr(notifiers, "EMAIL_TIMEOUT", 1)
    port, gone = dripping
    async with mail_server() as mails:
        mails.port = port
        async with asyncio.timeout(30):
            with pytest.raises(NotificationFailed, match="TimeoutError"):
                await mailbox(mails).send(note)
            await gone.wait()


async def test_a_reply_without_end_is_hung_up_on(note):
    wrote, gone = 0, asyncio.Event()

    async def flood(_reader, writer):
        nonlocal wrote
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"220-and more\r\n" * 1000)
                wrote += 14_000
                await writer.drain()
        gone.set()

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    async with server, mail_server() as mails:
        mails.port = server.sockets[0].getsockname()[1]
        async with asyncio.timeout(10):
            with pytest.raises(NotificationFailed, match="SMTPResponseException -1"):
                await mailbox(mails).send(note)
            await gone.wait()
    assert wrote < 32 * 1024 * 1024


async def test_a_server_that_is_not_there_is_named(note):
    async with mail_server() as mails:
        pass
    with pytest.raises(NotificationFailed, match="ConnectionRefusedError"):
        await mailbox(mails).send(note)


@pytest.fixture
def certificate(tmp_path, monkeypatch):
    """One for localhost that this machine trusts while the test runs; gives the server's side."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "cert.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM) + secret)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    return context


def encrypted(mails, password=PASSWORD):
    options = {"host": "localhost", "security": "starttls"}
    return mailbox(mails, **options, username="relay", password=password)


async def test_a_password_goes_only_through_tls(note, certificate):
    async with mail_server(
        tls_context=certificate, require_starttls=True, auth_required=True
    ) as mails:
        await encrypted(mails).send(note)
        assert (await mails.next())["Subject"].endswith("spill")
        with pytest.raises(NotificationFailed, match="SMTPAuthenticationError 535"):
            await encrypted(mails, "wrong").send(note)
    assert set(mails.logins) == {("relay", PASSWORD), ("relay", "wrong")}


async def test_a_server_that_speaks_tls_from_the_first_byte_takes_it_too(note, certificate):
    async with mail_server(tls=certificate) as mails:
        await mailbox(mails, host="localhost", security="tls").send(note)
        assert (await mails.next())["Subject"].endswith("spill")


async def test_a_server_without_a_trusted_certificate_gets_no_password(
    note, certificate, monkeypatch
):
    monkeypatch.delenv("SSL_CERT_FILE")
    async with mail_server(tls_context=certificate, auth_required=True) as mails:
        with pytest.raises(NotificationFailed, match="SSLCertVerificationError"):
            await encrypted(mails).send(note)
    assert mails.logins == []


async def test_the_authorities_are_read_beside_the_event_loop(note, monkeypatch):
    threads, create = [], ssl.create_default_context

    def noted(*arguments, **options):
        threads.append(threading.current_thread())
        return create(*arguments, **options)

    monkeypatch.setattr(ssl, "create_default_context", noted)
    async with mail_server() as mails:
        await mailbox(mails).send(note)
    assert threads
    assert threading.main_thread() not in threads


async def test_a_server_that_offers_no_tls_gets_no_password(note):
    async with mail_server() as mails:
        with pytest.raises(NotificationFailed, match="STARTTLS extension not supported"):
            await encrypted(mails).send(note)
    assert mails.logins == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"from": "relay"}, "should be an address such as"),
        ({"from": "a@b\nBcc: c@d"}, "should be an address such as"),
        ({"to": []}, "at least 1"),
        ({"username": "relay"}, "both username and password"),
        ({"username": "relay", "password": "x"}, "keep the password secret"),
    ],
)
def test_what_cannot_be_a_mailbox_is_a_mistake_in_the_file(tmp_path, changes, words):
    email = {"host": "mail.example.com", "security": "none", "from": "a@b", "to": ["c@d"]}
    path = tmp_path / "relay.yaml"
    path.write_text(yaml.safe_dump({"alerts": {"email": email | changes}}))
    with pytest.raises(loader.ConfigError, match=rf"relay\.yaml:\d+: alerts\.email.*{words}"):
        loader.load(path, {})


# the whole


@pytest.fixture
async def relay(tmp_path, clock, receiver, monkeypatch):
    """A relay whose sink refuses its credentials, with a webhook and a mailbox for alerts."""
    async with mail_server() as mails:
        hook = {"plugin": "webhook", "options": {"url": receiver.url + "/sink"}}
        email = {"host": "127.0.0.1", "port": mails.port, "security": "none"}
        settings = SETTINGS | {
            "sinks": {"crm": hook | {"allow_private": LOOPBACK}},
            "alerts": {
                "rules": {"keyword_silent": {"JOIN": "24h"}},
                "webhook": {"url": receiver.url, "secrets": [SECRET], "allow_private": LOOPBACK},
                "email": email | {"from": "relay@example.com", "to": ["ops@example.com"]},
            },
        }
        path = tmp_path / "relay.yaml"
        path.write_text(yaml.safe_dump(settings))
        watched = Watched(path, clock, receiver, mails)
        evaluate = AlertMonitor.evaluate

        async def and_tell(monitor):
            await evaluate(monitor)
            watched.looked.set()

        monkeypatch.setattr(AlertMonitor, "evaluate", and_tell)
        yield watched


class Watched:
    """A relay that a test may start and stop; time passes as it says."""

    def __init__(self, path, clock, receiver, mails):
        self.path = path
        self.clock = clock
        self.receiver = receiver
        self.mails = mails
        self.looked = asyncio.Event()

    def started(self):
        return service.started(loader.load(self.path, {}), clock=self.clock)

    async def passes(self, seconds):
        """Time passes, look after look."""
        for _ in range(int(seconds / EVALUATE_EVERY)):
            await asyncio.wait_for(self.looked.wait(), 20)
            self.looked.clear()
            await settle()  # until it sleeps
            await self.clock.advance(EVALUATE_EVERY)

    async def hears(self):
        """The next note that the webhook gets, verified; the mailbox gets it too."""
        async with asyncio.timeout(20):
            while not (found := [each for each in self.receiver.requests if each.path == "/hook"]):
                await self.passes(EVALUATE_EVERY)
        self.receiver.requests.remove(found[0])
        told = Verifier(SECRET).verify(found[0].body, found[0].headers)["data"]
        await self.mails.next()
        return {
            name: [" ".join(filter(None, (each["rule"], each["subject"]))) for each in told[name]]
            for name in ("new", "lasting", "over")
        }


def only(**told):
    return {"new": [], "lasting": [], "over": []} | told


async def pause(running, clock):
    await running._sink_manager.pause("crm", "401: call +12125550177")
    assert running._sink_manager.states()["crm"].state == "paused"


async def test_a_pause_is_told_everywhere_then_its_end_and_each_once(relay, caplog):
    with caplog.at_level(logging.INFO, "relay.alerts"):
        async with relay.started() as running:
            await pause(running, relay.clock)
            assert await relay.hears() == only(new=["sink_paused crm"])
            await relay.passes(1200)
            await running._sink_manager.resume("crm")
            assert await relay.hears() == only(over=["sink_paused crm"])
            await relay.passes(600)
    assert relay.mails.mails == []
    assert [each for each in relay.receiver.requests if each.path == "/hook"] == []
    said = [each.message for each in caplog.records if each.name == "relay.alerts"]
    paused = (
        "sink_paused crm: The sink crm is paused since 2027-01-15T08:00:00Z: 401: call …0177."
        " Somebody has paused it: `relay sinks resume crm` ends that."
    )
    assert said == [paused, "over: sink_paused crm"]


async def refuse_one(relay, running):
    """A callback comes, and the sink's other side refuses it for good."""
    relay.receiver.then(status(400))
    async with httpx.AsyncClient(trust_env=False, verify=False) as http:
        url = f"http://127.0.0.1:{running.address[1]}/callbacks/sumotext"
        form = {"mobile": "2125550177", "smsid": "m1", "key": "JOIN", "msg": "hello"}
        assert (await http.post(url, data=form)).status_code == 200


async def test_a_delivery_that_was_given_up_is_told_until_somebody_sees_to_it(relay):
    async with relay.started() as running:
        await refuse_one(relay, running)
        assert await relay.hears() == only(new=["dead crm"])
        assert await running._store.discard("crm", None) == 1
        assert await relay.hears() == only(over=["dead crm"])


async def test_what_has_been_dead_for_long_is_no_news(relay):
    async with relay.started() as running:
        await refuse_one(relay, running)
        assert await relay.hears() == only(new=["dead crm"])
        relay.clock.jump(3600)
        assert await relay.hears() == only(over=["dead crm"])
        await relay.passes(1200)
        assert (await running.readings()).sinks["crm"].dead == 1
    assert [each for each in relay.receiver.requests if each.path == "/hook"] == []


async def test_a_restart_tells_nothing_anew(relay):
    async with relay.started() as running:
        await pause(running, relay.clock)
        assert await relay.hears() == only(new=["sink_paused crm"])
    kept = json.loads(relay.path.with_name("data").joinpath("relay.db.alerts").read_bytes())
    assert set(kept["channels"]) == {"log", "webhook", "email"}
    async with relay.started() as running:
        await relay.passes(MIN_GAP + 60)
        assert [each for each in relay.receiver.requests if each.path == "/hook"] == []
        await running._sink_manager.resume("crm")
        assert await relay.hears() == only(over=["sink_paused crm"])


async def test_a_channel_that_is_down_holds_up_no_other_and_hears_it_later(relay, caplog):
    relay.receiver.then(*[status(503)] * 3)
    async with relay.started() as running:
        await pause(running, relay.clock)
        await relay.passes(330)
        assert (await relay.mails.next())["Subject"].endswith("sink_paused crm")
        await relay.passes(600)
        posts = [each for each in relay.receiver.requests if each.path == "/hook"]
    assert len(posts) == 4
    assert relay.mails.mails == []
    assert "the webhook did not take a note, again in 300 s: the receiver answered 503" in (
        caplog.text
    )


async def test_a_keyword_that_falls_silent_is_told(relay):
    async with relay.started():
        await relay.passes(30)
        relay.clock.jump(23 * 3600)
        await relay.passes(60)
        assert relay.mails.mails == []
        relay.clock.jump(3600)
        assert await relay.hears() == only(new=["keyword_silent JOIN"])


async def test_a_store_that_cannot_be_opened_is_told_and_when_it_can_be(relay):
    store = relay.path.with_name("data").joinpath("relay.db")
    store.parent.mkdir()
    store.write_bytes(b"no database " * 1000)
    async with relay.started():
        assert await relay.hears() == only(new=["store"])
    store.unlink()
    async with relay.started():
        assert await relay.hears() == only(over=["store"])
