"""What came with a wrong token becomes an event only by a valid token, or by a person's choice."""

import asyncio
import json
import os
import pty
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest
import yaml
from click.testing import CliRunner
from listening import answers

from relay import service
from relay.api import Taken, TokenStatus
from relay.api.quarantine import ReleasePolicy
from relay.cli import client, main
from relay.config import last_good, loader
from relay.config.loader import ConfigError
from relay.config.model import SourceConfig
from relay.event import RawCallback
from relay.server.access import digest_tokens
from relay.spill.records import Spilled, encode
from relay.store import Quarantined

OLD, NEW, FORGED = "the-old-token", "the-new-token", "a-forged-token"
SECRETS = (OLD, NEW, FORGED)
LOOPBACK = "127.0.0.1"


def query(contact, message="STOP"):
    return f"mobile=212555{contact:04}&carrierId=T&key=JOIN&msg={message}".encode()


class Relay:
    """One whose relay.yaml changes, with its commands, while it runs and while it does not."""

    def __init__(self, folder):
        self.path = folder / "relay.yaml"
        self.folder = folder
        self.port = 0

    def configure(self, **source):
        settings = {
            "server": {"listen": "127.0.0.1:0"},
            "admin": {"listen": "127.0.0.1:0"},
            "sources": {"sumotext": {"country": "US", **source}},
            "sinks": {"archive": {"plugin": "csv", "options": {"path": "events.csv"}}},
        }
        self.path.write_text(yaml.safe_dump(settings))

    @asynccontextmanager
    async def running(self, loaded=None):
        loaded = loaded or loader.load(self.path, {})
        async with service.started(loaded) as running:
            await running.opened()
            self.port = running.address[1]
            yield

    async def send(self, contact, token="", message="STOP", headers=b""):
        """The status of the answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            line = b"GET /callbacks/sumotext/%s?%s HTTP/1.1\r\n" % (
                token.encode(),
                query(contact, message),
            )
            writer.write(line + headers + b"Connection: close\r\n\r\n")
            (answer,) = answers(await reader.read())
        finally:
            writer.close()
        return answer.status

    async def command(self, *arguments, status=0):
        words = [*arguments, "--config", str(self.path)]
        result = await asyncio.to_thread(CliRunner().invoke, main, words, catch_exceptions=False)
        assert result.exit_code == status, result.output
        assert not any(secret in result.output for secret in SECRETS)
        return result

    async def asked(self, *arguments, status=0):
        return json.loads((await self.command(*arguments, "--json", status=status)).stdout)

    async def control(self, path, **body):
        async with client.session(loader.load(self.path, {}, fill=False)) as session:
            return await session.post(path, **body)

    async def kept(self):
        """What is in quarantine, the oldest first."""
        return (await self.asked("quarantine", "list"))[::-1]

    async def contacts(self):
        """The last digits of the contacts of all events, the oldest first."""
        events = await self.asked("events", "list")
        return [int(each["data"]["mobile"][-4:]) for each in reversed(events)]

    def spill(self, *spilled):
        (self.folder / "data").mkdir(exist_ok=True)
        (self.folder / "data/relay.db.spill").write_bytes(b"".join(map(encode, spilled)))


@pytest.fixture
def relay(tmp_path):
    return Relay(tmp_path)


def callback(contact, **more):
    raw = RawCallback("sumotext", "GET", query(contact), "", b"", 1_800_000_000_000_000)
    return raw._replace(**more)


async def refused_some(relay):
    """An old token's, a forged one's and none's, and one that was not understood."""
    relay.configure(tokens=[OLD])
    async with relay.running():
        for contact, token in ((1, NEW), (2, FORGED), (3, "")):
            assert await relay.send(contact, token) == 401
        assert await relay.send(0, OLD, message="%FF&mobile=1") == 422
    kept = await relay.kept()
    assert [each["status"] for each in kept] == [401, 401, 401, 422]
    assert {each["sender"] for each in kept} == {LOOPBACK}
    return kept


async def test_all_never_takes_what_came_with_a_wrong_token(relay):
    """And says how many there are, and how they are taken."""
    await refused_some(relay)
    relay.configure(tokens=[NEW])
    told = (await relay.command("quarantine", "release", "--all", status=1)).output
    assert "0 callbacks released, 1 not" in told
    assert "3 callbacks with a wrong token (401) still wait" in told
    assert "--token-now-valid" in told
    assert "release ID" in told
    assert await relay.contacts() == []
    assert (await relay.asked("quarantine", "release", "--all", status=1))["left"] == 3


@pytest.mark.parametrize("live", [False, True])
async def test_token_now_valid_takes_those_and_no_others(relay, live):
    kept = await refused_some(relay)
    relay.configure(tokens=[NEW, "another"])

    async def release():
        told = await relay.asked("quarantine", "release", "--token-now-valid")
        assert [each["id"] for each in told["released"]] == [kept[0]["id"]]
        assert (told["failed"], told["left"]) == ([], 2)
        assert await relay.contacts() == [1]

    if live:
        async with relay.running():
            await release()
    else:
        await release()


async def test_both_go_in_the_order_in_which_they_came(relay):
    relay.configure(tokens=[OLD], rename={"handset": "mobile"})
    async with relay.running():
        for contact, token in ((1, OLD), (2, NEW), (3, OLD)):
            assert await relay.send(contact, token) == (200 if token == OLD else 401)
    relay.spill(
        Spilled("01a206f3-96be-76c7-999f-41d972e404b8", callback(4), 422, "no kind"),
        Spilled("01a206f3-96be-76c7-999f-41d972e404b9", callback(5), 401, "the token is wrong"),
    )
    relay.configure(tokens=[NEW])
    async with relay.running():
        while len(await relay.kept()) < 3:
            await asyncio.sleep(0.05)
        told = await relay.asked("quarantine", "release", "--all", "--token-now-valid")
    assert len(told["released"]) == 2
    assert told["left"] == 1
    assert await relay.contacts() == [1, 3, 2, 4]


async def test_what_was_valid_and_is_not_any_more_is_no_wrong_token(relay):
    """It was let in, and not understood."""
    relay.configure(tokens=[OLD])
    async with relay.running():
        assert await relay.send(1, OLD, message="hi&mobile=2125550002") == 422
    relay.configure(tokens=[NEW])
    (kept,) = await relay.kept()
    assert kept["token"] is None
    told = await relay.asked("quarantine", "release", "--all", status=1)
    assert told["left"] == 0
    assert told["failed"][0]["reason"] == "mobile is there twice, and they differ"


async def test_by_id_a_person_is_asked(relay):
    """Who cannot be asked says --yes."""
    kept = await refused_some(relay)
    relay.configure(tokens=[NEW])
    forged = kept[1]["id"]
    told = (await relay.command("quarantine", "release", forged, status=2)).output
    assert f"from {LOOPBACK} at 20" in told
    assert "its token is not valid" in told
    assert await relay.contacts() == []
    told = (await relay.command("quarantine", "release", kept[2]["id"], status=2)).output
    assert "it has no token" in told
    assert (
        "1 callback released"
        in (await relay.command("quarantine", "release", forged, "--yes")).output
    )
    assert await relay.contacts() == [2]


async def test_by_id_a_token_that_is_valid_now_needs_no_question(relay):
    kept = await refused_some(relay)
    relay.configure(tokens=[NEW])
    await relay.command("quarantine", "release", kept[0]["id"])
    assert await relay.contacts() == [1]


async def test_by_id_one_from_an_address_that_may_not_send_any_more_is_asked_for(relay):
    kept = await refused_some(relay)
    relay.configure(tokens=[NEW], allow_from=["203.0.113.0/24"])
    assert (await relay.asked("quarantine", "release", "--token-now-valid"))["left"] == 3
    told = (await relay.command("quarantine", "release", kept[0]["id"], status=2)).output
    assert "not in allow_from" in told
    await relay.command("quarantine", "release", kept[0]["id"], "--yes")
    assert await relay.contacts() == [1]


async def test_several_ids_are_released_in_their_order_or_not_at_all(relay):
    kept = await refused_some(relay)
    relay.configure(tokens=[NEW])
    ids = [each["id"] for each in kept[:3]]
    await relay.command("quarantine", "release", *ids, status=2)
    assert await relay.contacts() == []
    told = await relay.asked("quarantine", "release", *ids, "none", "--yes", status=1)
    assert [each["id"] for each in told["released"]] == ids
    assert [each["id"] for each in told["failed"]] == ["none"]
    assert await relay.contacts() == [1, 2, 3]


async def test_a_dry_run_shows_one_without_a_question(relay):
    kept = await refused_some(relay)
    told = await relay.asked("quarantine", "release", kept[1]["id"], "--dry-run")
    assert told["released"][0]["mobile"] == "+12125550002"
    assert await relay.contacts() == []


@pytest.mark.parametrize(("answer", "status"), [("y", 0), ("n", 1)])
async def test_at_a_terminal_the_question_says_from_where_it_came(relay, answer, status):
    kept = await refused_some(relay)
    outside, inside = pty.openpty()
    try:
        os.write(outside, f"{answer}\n".encode())
        words = ["quarantine", "release", kept[1]["id"], "--config", str(relay.path)]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "relay.cli", *words),
            stdin=inside,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        told, _ = await process.communicate()
    finally:
        os.close(inside)
        os.close(outside)
    assert process.returncode == status
    assert f"came to sumotext from {LOOPBACK} at ".encode() in told
    assert await relay.contacts() == ([2] if answer == "y" else [])


# what the API itself refuses


@pytest.mark.parametrize("live", [False, True])
async def test_the_api_takes_no_wrong_token_on_the_word_of_the_command(relay, live):
    kept = await refused_some(relay)
    relay.configure(tokens=[NEW])
    ids = [each["id"] for each in kept[:3]]

    async def ask():
        for body, released in (
            ({}, []),
            ({"unauthorized": "none"}, []),
            ({"unauthorized": "token_now_valid"}, ids[:1]),
        ):
            told = await relay.control("/quarantine/release", ids=ids, **body)
            assert [each["id"] for each in told["released"]] == released
            assert len(told["failed"]) == len(ids) - len(released)
        with pytest.raises(client.click.ClickException, match="chosen alone"):
            await relay.control("/quarantine/release", ids=ids[1:], unauthorized="chosen")
        with pytest.raises(client.click.ClickException):
            await relay.control("/quarantine/release", ids=ids[1:], unauthorized="all")
        assert await relay.contacts() == [1]
        await relay.control("/quarantine/release", ids=ids[1:2], unauthorized="chosen")
        assert await relay.contacts() == [1, 2]

    if live:
        async with relay.running():
            await ask()
    else:
        await ask()


# what is shown and kept


async def test_list_and_show_name_the_sender_and_what_the_token_is_worth(relay):
    kept = await refused_some(relay)
    relay.configure(tokens=[NEW])
    assert [each["token"] for each in await relay.kept()] == ["valid", "wrong", "missing", None]
    listed = (await relay.command("quarantine", "list")).output
    for words in ("From", LOOPBACK, "is valid now", "the token is wrong", "the token is missing"):
        assert words in listed
    shown = (await relay.command("quarantine", "show", kept[0]["id"])).output
    assert "valid" in shown
    assert LOOPBACK in shown


async def test_no_token_is_kept(relay):
    await refused_some(relay)
    for file in (relay.folder / "data").glob("relay.db*[!k]"):
        content = file.read_bytes()
        assert not any(secret.encode() in content for secret in (NEW, FORGED)), file


async def test_every_place_of_a_token_counts(relay):
    relay.configure(tokens=[OLD])
    basic = b"Authorization: Basic OnRoZS1uZXctdG9rZW4=\r\n"
    header = b"X-Relay-Token: the-new-token\r\n"
    async with relay.running():
        for contact, headers in enumerate((basic, header, b"X-Relay-Token: no\r\n" + header)):
            assert await relay.send(contact, FORGED, headers=headers) == 401
    relay.configure(tokens=[NEW])
    assert len((await relay.asked("quarantine", "release", "--token-now-valid"))["released"]) == 3


# by way of the spill, and of a configuration that is wrong


async def test_a_spilled_one_stays_one(relay):
    """With a digest and without one, as earlier releases wrote them."""
    digests = (
        digest_tokens([NEW.encode()]),
        digest_tokens([FORGED.encode()]),
        digest_tokens([]),
        None,
    )
    relay.spill(
        *(
            Spilled(
                f"01a206f3-96be-76c7-999f-41d972e4000{number}",
                callback(number, sender="203.0.113.9" if digest else "", token_digest=digest),
                401,
                "the token is wrong or missing",
            )
            for number, digest in enumerate(digests)
        )
    )
    relay.configure(tokens=[NEW])
    async with relay.running():
        while len(kept := await relay.kept()) < 4:
            await asyncio.sleep(0.05)
        assert [each["token"] for each in kept] == ["valid", "wrong", "missing", "unknown"]
        told = await relay.asked("quarantine", "release", "--all")
        assert (told["released"], told["left"]) == ([], 4)
        await relay.asked("quarantine", "release", "--token-now-valid")
        assert await relay.contacts() == [0]
        told = (await relay.command("quarantine", "release", kept[3]["id"], status=2)).output
        assert "from an address that is not known" in told
        assert "cannot be told" in told
        await relay.command("quarantine", "release", kept[3]["id"], "--yes")
        assert await relay.contacts() == [0, 3]


async def test_what_a_last_valid_configuration_could_not_judge_is_judged_by_the_tokens(relay):
    """Its token could not be read, so every callback was refused, forged ones among them."""
    relay.configure(tokens=["${file:token}"])
    (relay.folder / "token").write_text(NEW)
    loaded = loader.load(relay.path, {})
    (relay.folder / "data").mkdir()
    last_good.keep(loaded)
    (relay.folder / "token").unlink()
    with pytest.raises(ConfigError) as wrong:
        loader.load(relay.path, {})
    last = last_good.load(relay.path, {}, wrong.value, fill=True)
    async with relay.running(last):
        assert [await relay.send(1, NEW), await relay.send(2, FORGED)] == [401, 401]
    assert [each["token"] for each in await relay.kept()] == ["unknown", "unknown"]
    (relay.folder / "token").write_text(NEW)
    async with relay.running():
        assert (await relay.asked("quarantine", "release", "--all"))["left"] == 2
        await relay.command("quarantine", "release", "--token-now-valid")
        assert await relay.contacts() == [1]


async def test_a_placeholder_that_is_not_filled_in_is_no_token(relay):
    """A command may run without the service's environment. Anyone can send the placeholder."""
    placeholder = "${SUMOTEXT_TOKEN}"
    relay.configure(tokens=[OLD])
    async with relay.running():
        header = f"X-Relay-Token: {placeholder}\r\n".encode()
        assert await relay.send(1, headers=header) == 401
        assert await relay.send(2, NEW) == 401
    relay.configure(tokens=[placeholder, NEW])
    assert [each["token"] for each in await relay.kept()] == ["unknown", "valid"]
    told = await relay.asked("quarantine", "release", "--token-now-valid")
    assert len(told["released"]) == 1
    assert await relay.contacts() == [2]


# the policy alone


def row(status=401, source="sumotext", **more):
    return Quarantined(1, "id", 0, source, status, "", callback(1, **more))


def judged(settings, **more):
    """What is known of its token, and whether it is released for that."""
    unauthorized = ReleasePolicy({"sumotext": SourceConfig(**settings)})
    found = row(**more)
    return unauthorized.token(found), not unauthorized.objection(found, Taken.TOKEN_NOW_VALID)


@pytest.mark.parametrize(
    ("settings", "more", "token", "released"),
    [
        (
            {"tokens": [NEW]},
            {"token_digest": digest_tokens([NEW.encode()])},
            TokenStatus.VALID,
            True,
        ),
        (
            {"tokens": [OLD]},
            {"token_digest": digest_tokens([NEW.encode()])},
            TokenStatus.WRONG,
            False,
        ),
        ({}, {"token_digest": digest_tokens([NEW.encode()])}, TokenStatus.WRONG, False),
        ({"tokens": [OLD]}, {"token_digest": digest_tokens([])}, TokenStatus.MISSING, False),
        ({"tokens": [OLD]}, {}, TokenStatus.UNKNOWN, False),
        ({"tokens": [OLD]}, {"token_digest": b""}, TokenStatus.MISSING, False),
        ({"tokens": [NEW]}, {"status": 422}, None, True),
        (
            {"tokens": [NEW]},
            {"source": "gone", "token_digest": digest_tokens([NEW.encode()])},
            TokenStatus.UNKNOWN,
            False,
        ),
    ],
)
def test_only_a_token_of_today_is_valid(settings, more, token, released):
    assert judged(settings, **more) == (token, released)


@pytest.mark.parametrize(
    ("sender", "token", "released"),
    [("203.0.113.9", TokenStatus.VALID, True), ("198.51.100.1", TokenStatus.ELSEWHERE, False)],
)
def test_a_network_of_today_counts_as_well(sender, token, released):
    settings = {"tokens": [NEW], "allow_from": ["203.0.113.0/24"]}
    found = judged(settings, sender=sender, token_digest=digest_tokens([NEW.encode()]))
    assert found == (token, released)


def test_an_address_that_is_not_known_is_in_no_network():
    settings = {"tokens": [NEW], "allow_from": ["0.0.0.0/0", "::/0"]}
    assert judged(settings, token_digest=digest_tokens([NEW.encode()])) == (
        TokenStatus.ELSEWHERE,
        False,
    )
