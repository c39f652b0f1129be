"""Erasing a contact: before it the number is found, after it in no byte of what the relay keeps."""

import asyncio
import contextlib
import csv
import gzip
import io
import json
import re
import zlib
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import quote, unquote

import apsw
import httpx
import pytest
import yaml
from arrivals import arrival, claim_one, delivered, mobile
from click.testing import CliRunner
from relaying import SETTINGS
from uuid_utils import uuid7

from relay import service
from relay.cli import main
from relay.config import loader
from relay.event import RawCallback
from relay.redact import NumberMatcher
from relay.spill.queue import SpillQueue
from relay.spill.records import Spilled, encode
from relay.store import Attempt, EventFilter, Settlement, SinkState, State
from relay.store.sqlite import SqliteStore
from relay.store.sqlite import erase as scrub

NUMBER = "+12125550142"
SPELLINGS = (b"12125550142", b"2125550142", b"212-555-0142", b"(212) 555-0142", b"%28212%29%20555")
OTHER = "2125550177"


def everything(folder) -> dict[str, bytes]:
    """All files that the relay keeps, by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def holders(folder) -> set[str]:
    """The files with the number in any spelling."""
    found = everything(folder).items()
    return {name for name, data in found if any(each in data for each in SPELLINGS)}


@pytest.fixture
def settings(tmp_path):
    """A relay with a CSV sink, in files of its own in `tmp_path`."""
    path = tmp_path / "relay.yaml"
    sinks = {
        "archive": {"plugin": "csv", "options": {"path": "out/events.csv"}},
        "days": {"plugin": "csv", "options": {"path": "out/{{ data.keyword }}.log.csv"}},
    }
    path.write_text(yaml.safe_dump(SETTINGS | {"sinks": sinks}))
    return path


@asynccontextmanager
async def running(path):
    async with service.started(loader.load(path, {})) as relay:
        url = f"http://127.0.0.1:{relay.address[1]}/callbacks/sumotext"
        async with httpx.AsyncClient(trust_env=False, verify=False) as http:
            yield relay, url, http


async def command(path, *words, number=None, code=0):
    result = await asyncio.to_thread(
        CliRunner().invoke, main, [*words, "--config", str(path)], input=number
    )
    assert result.exit_code == code, result.output
    return result.stdout + (result.stderr if code else "")


async def fill(url, http):
    """Callbacks of the contact, of another who mentions it, and two that nobody understands."""
    own = [
        "mobile=2125550142&smsid=1&shortcode=84700&key=JOIN&msg=hello",
        "mobile=%28212%29%20555-0142&smsid=2&shortcode=84700&key=JOIN&msg=once+more",
        "mobile=%2B12125550142&shortcode=84700&keyword=VIP&Name=Bill&carrierId=7",
    ]
    others = [
        f"mobile={OTHER}&smsid=3&shortcode=84700&key=JOIN&msg=call+212-555-0142+please",
        f"mobile={OTHER}&smsid=4&shortcode=84700&key=JOIN&msg=mine",
    ]
    for query in own + others:
        assert (await http.get(f"{url}?{query}")).status_code == 200
    for query in ("nothing=212.555.0142", "mobile=2125550142&mobile=2125550199&smsid=9"):
        assert (await http.get(f"{url}?{query}")).status_code == 422


async def landed(relay, number):
    async with asyncio.timeout(20):
        while True:
            sinks = (await relay.readings()).sinks
            if sinks and all(counts.delivered == number for counts in sinks.values()):
                return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("live", [True, False], ids=["running", "stopped"])
async def test_afterwards_the_number_is_in_no_byte(settings, tmp_path, live):
    async with running(settings) as (relay, url, http):
        await fill(url, http)
        await landed(relay, 5)
        before = holders(tmp_path)
        assert "out/events.csv" in before
        assert "out/JOIN.log.csv" in before
        assert any("relay.db" in name for name in before)
        if live:
            found = json.loads(await command(settings, "erase", "--json", number=NUMBER))
            assert holders(tmp_path) == set()
    if not live:
        assert holders(tmp_path) >= {"out/events.csv", "data/relay.db"}
        found = json.loads(await command(settings, "erase", "--json", number="(212) 555-0142"))
    assert holders(tmp_path) == set()
    assert found["found"] == {"events": 3, "quarantine": 2, "mentions": 1}
    assert found["sinks"] == {
        "archive": {"records": 3, "mentions": 1},
        "days": {"records": 3, "mentions": 1},
    }
    assert found["traces"] == 0
    assert 0 < found["searched"] <= (tmp_path / "data/relay.db").stat().st_size
    assert found["left"] == ["backups, and whatever else was copied from here"]


async def test_what_others_said_stays(settings, tmp_path):
    async with running(settings) as (relay, url, http):
        await fill(url, http)
        await landed(relay, 5)
        await command(settings, "erase", number=NUMBER)
        listed = json.loads(await command(settings, "events", "list", "--json"))
    assert [event["data"]["message"] for event in listed] == ["mine", "call xxx-xxx-xxxx please"]
    assert {event["data"]["mobile"] for event in listed} == {"+12125550177"}
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out/events.csv").read_text())))
    assert [row["message"] for row in rows] == ["call xxx-xxx-xxxx please", "mine"]


async def test_files_go_on_where_they_were(settings, tmp_path):
    async with running(settings) as (relay, url, http):
        await fill(url, http)
        await landed(relay, 5)
        await command(settings, "erase", number=NUMBER)
        query = f"mobile={OTHER}&smsid=5&shortcode=84700&key=JOIN&msg=later"
        assert (await http.get(f"{url}?{query}")).status_code == 200
        await landed(relay, 6)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out/events.csv").read_text())))
    assert [row["message"] for row in rows][-2:] == ["mine", "later"]


async def test_an_opt_out_that_has_not_arrived_is_not_forgotten(settings, tmp_path):
    async with running(settings) as (relay, url, http):
        await fill(url, http)
        await landed(relay, 5)
        await command(settings, "sinks", "pause", "archive")
        stop = "mobile=2125550142&smsid=8&shortcode=84700&key=JOIN&msg=STOP"
        assert (await http.get(f"{url}?{stop}")).status_code == 200
        said = await command(settings, "erase", number=NUMBER, code=1)
        assert "has not reached the sink archive" in said
        assert "relay sinks resume archive" in said
        assert "0142" not in said
        assert "data/relay.db-wal" in holders(tmp_path)
        await command(settings, "sinks", "resume", "archive")
        await landed(relay, 6)
        await command(settings, "erase", number=NUMBER)
        assert holders(tmp_path) == set()
        words = json.loads(await command(settings, "consent", "export", "--json"))
    assert [(word["word"], word["mobile"]) for word in words] == [("opt_out", None)]
    assert words[0]["accepted"].keys() == {"archive", "days"}


async def test_a_word_that_is_no_number_is_wrong_usage(settings):
    said = await command(settings, "erase", number="nobody", code=2)
    assert "no number" in said


async def test_a_number_as_an_argument_is_refused_and_not_repeated(settings):
    said = await command(settings, "erase", "2125550115", number="2125550115", code=2)
    assert "pipe it in" in said
    assert "0115" not in said


async def test_what_is_being_sent_is_waited_for(tmp_path, clock):
    store = await SqliteStore.open(tmp_path / "relay.db", clock=clock)
    matcher = NumberMatcher(mobile(1))
    await store.add(arrival(1))
    await store.add(arrival(1))
    claim = await claim_one(store)
    rows = await store.find_contact(matcher)
    assert len(rows.events) == 2
    assert await store.discard_open(rows) == 1
    assert (await store.delete_contact(rows, matcher))["events"] == 1
    await store.settle([delivered(claim)])
    assert await store.discard_open(rows) == 0
    assert (await store.delete_contact(rows, matcher))["events"] == 1
    assert await store.event_count() == 0
    assert (await store.sink_counts())["crm"].pending == 0
    await store.close()


async def test_without_overwriting_the_number_would_stay(tmp_path, clock):
    """The control: a plain DELETE leaves the bytes in the file."""
    path = tmp_path / "relay.db"
    store = await SqliteStore.open(path, clock=clock)
    for contact in range(50):
        await store.add(arrival(contact, sinks=()))
    await store.database.write(
        lambda db, _: db.execute("DELETE FROM events WHERE seq < 10").fetchall()
    )
    await store.database.writer.submit(scrub.empty_log, alone=True)
    digits = mobile(3).encode()
    assert digits not in path.read_bytes()

    def careless(db):
        db.execute("PRAGMA secure_delete = OFF").fetchall()
        db.execute("DELETE FROM events WHERE seq BETWEEN 10 AND 20").fetchall()

    await store.database.writer.submit(careless, alone=True)
    await store.database.writer.submit(scrub.empty_log, alone=True)
    gone = [mobile(contact) for contact in range(9, 20)]
    left = next(number for number in gone if number.encode() in path.read_bytes())
    assert await store.scrub(NumberMatcher(left)) == (0, path.stat().st_size)
    assert left.encode() not in path.read_bytes()
    await store.close()


async def test_the_spill_is_searched_too(settings, tmp_path):
    async with running(settings):
        pass
    loaded = loader.load(settings, {})
    spill = await SpillQueue.open(loaded.state.spill)
    for number in ("2125550142", OTHER):
        callback = RawCallback("sumotext", "GET", f"mobile={number}".encode(), "", b"", 0)
        await spill.append(Spilled(str(uuid7()), callback))
    await spill.close()
    assert holders(tmp_path) == {"data/relay.db.spill"}
    found = json.loads(await command(settings, "erase", "--json", number=NUMBER))
    assert found["found"] == {"spill": 1}
    assert holders(tmp_path) == set()
    assert OTHER.encode() in (tmp_path / "data/relay.db.spill").read_bytes()


async def test_the_spill_keeps_what_others_said(settings, tmp_path):
    """Their callbacks were acknowledged, and the store has none of them yet."""
    async with running(settings):
        pass
    spill = await SpillQueue.open(loader.load(settings, {}).state.spill)
    query = f"mobile={OTHER}&smsid=1&key=JOIN&msg=STOP+and+call+212-555-0142".encode()
    await spill.append(Spilled(str(uuid7()), RawCallback("sumotext", "GET", query, "", b"", 0)))
    await spill.close()
    found = json.loads(await command(settings, "erase", "--json", number=NUMBER))
    assert found["found"] == {"spill": 1}
    assert holders(tmp_path) == set()
    async with running(settings) as (relay, _, _):
        await landed(relay, 1)
        (event,) = json.loads(await command(settings, "events", "list", "--json"))
    assert event["data"]["mobile"] == "+12125550177"
    assert event["data"]["message"] == "STOP and call xxx-xxx-xxxx"


async def test_what_receivers_answered_to_others_is_blacked_out(tmp_path, clock):
    """In a batch, an answer may quote the number of somebody else's record."""
    store = await SqliteStore.open(tmp_path / "relay.db", clock=clock)
    digits = mobile(1)[1:]
    await store.add(arrival(1))
    await store.add(arrival(2))
    for claim in (await store.claim("crm", 10)).claims:
        attempt = Attempt(1, 0.1, f"400 for {digits}", 400, f'{{"phone": "{digits}"}}')
        await store.settle(
            [Settlement("crm", claim.seq, State.DEAD, error=f"bad {digits}", attempt=attempt)]
        )
    await store.save_sink_state("crm", SinkState(paused=f"it refused {digits}"))
    matcher = NumberMatcher(mobile(1))
    rows = await store.find_contact(matcher)
    await store.discard_open(rows)
    found = await store.delete_contact(rows, matcher)
    assert found == {"events": 1, "attempts": 1, "deliveries": 1, "sinks": 1}
    (event,) = await store.events(EventFilter())
    shown = await store.event(event.event.id)
    assert shown.deliveries[0].error == "bad " + "x" * 11
    assert shown.attempts[0][2].answer == f'{{"phone": "{"x" * 11}"}}'
    assert (await store.sink_states())["crm"].paused == "it refused " + "x" * 11
    assert (await store.scrub(matcher)).places == 0
    assert (await store.sink_counts())["crm"].dead == 1
    await store.close()


async def test_callbacks_are_taken_and_delivered_while_somebody_is_forgotten(settings, tmp_path):
    async with running(settings) as (relay, url, http):
        await fill(url, http)
        await landed(relay, 5)
        forgetting = asyncio.create_task(command(settings, "erase", "--json", number=NUMBER))
        sent = 0
        while not forgetting.done() or sent < 20:
            query = f"mobile={OTHER}&smsid=x{sent}&shortcode=84700&key=JOIN&msg=n{sent}"
            assert (await http.get(f"{url}?{query}")).status_code == 200
            sent += 1
        assert json.loads(await forgetting)["traces"] == 0
        await landed(relay, 5 + sent)
        assert holders(tmp_path) == set()
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out/events.csv").read_text())))
    assert sorted(row["message"] for row in rows if row["message"][0] == "n") == sorted(
        f"n{number}" for number in range(sent)
    )


# in other encodings

ARABIC = "٢١٢٥٥٥٠١٤٢"
ESCAPED = "".join(f"\\u{ord(digit):04x}" for digit in "2125550142")
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


def other_texts():
    """Bodies of another contact that quote the number, with their headers."""
    yield (
        f'{{"mobile":"{OTHER}","smsid":"e1","key":"JOIN","msg":"call {ESCAPED}"}}'.encode(),
        JSON,
        "",
    )
    form = f"mobile={OTHER}&smsid=%s&key=JOIN&msg=%s"
    yield (form % ("e2", "call 212:555:0142")).encode(), FORM, ""
    yield (form % ("e3", quote("call ２１２ ５５５ ０１４２"))).encode(), FORM, ""
    escaped = "".join(f"%u{ord(digit):04x}" for digit in ARABIC)
    yield (form % ("e4", f"call+{escaped}")).encode(), FORM, ""
    yield gzip.compress((form % ("e5", "call 212-555-0142")).encode()), FORM, "gzip"
    yield (form % ("e6", "call 2125550142")).encode("utf-16"), f"{FORM}; charset=utf-16", ""


def not_understood():
    """Bodies that make no event and hold the number."""
    yield f'{{"mobile":"{ESCAPED}"}}'.encode(), JSON, ""
    yield f'{{"mobile":"{ARABIC}"}}'.encode(), JSON, ""
    yield gzip.compress(b"mobile=212-555-0142"), FORM, "gzip"
    yield gzip.compress(b"mobile=212-555-0142&carrierId=7&key=JOIN")[:-4], FORM, "gzip"
    yield b"mobile=212JJJ0142", FORM, ""
    yield b'{"mobile":"212-555-0142",}', JSON, ""


def holds(callback) -> bool:
    """Whether a reader of the bytes, which shares nothing with the erasure, finds the number."""
    body = callback.body
    with contextlib.suppress(OSError, EOFError):
        body = zlib.decompressobj(31).decompress(body) if callback.encoding else body
    found = [callback.query, body, body.replace(b"\0", b"")]
    texts = [each.decode("utf-8", "replace") for each in found]
    texts += [unquote(re.sub("%u(....)", r"\\u\1", text)) for text in texts]
    texts += [re.sub(r"\\u(....)", lambda code: chr(int(code[1], 16)), text) for text in texts]
    digits = ["".join(str(int(each)) for each in text if each.isdecimal()) for text in texts]
    return any("2125550142" in each for each in digits) or b"212JJJ0142" in body


async def test_what_is_encoded_is_found_too(settings, tmp_path):
    async with running(settings) as (relay, url, http):
        for body, content_type, encoding in [*other_texts(), *not_understood()]:
            headers = {"Content-Type": content_type, "Content-Encoding": encoding}
            await http.post(url, content=body, headers={k: v for k, v in headers.items() if v})
        await landed(relay, 6)
        assert len([each for each in kept(tmp_path) if holds(each)]) == 12
        assert quoting(tmp_path / "out/events.csv") == 6
        found = json.loads(await command(settings, "erase", "--json", number=NUMBER))
        assert found["found"] == {"quarantine": 6, "mentions": 6}
        assert found["sinks"]["archive"] == {"records": 0, "mentions": 6}
        callbacks = kept(tmp_path)
        listed = json.loads(await command(settings, "events", "list", "--json"))
    assert len(callbacks) == 6
    assert not any(map(holds, callbacks))
    assert quoting(tmp_path / "out/events.csv") == 0
    assert {event["data"]["mobile"] for event in listed} == {"+12125550177"}
    assert all("x" in event["data"]["message"] for event in listed)
    assert found["traces"] == 0


def kept(folder):
    """Every callback in the store, with its Content-Encoding."""
    columns = "query, body, encoding"
    connection = apsw.Connection(str(folder / "data/relay.db"), flags=apsw.SQLITE_OPEN_READONLY)
    found = connection.execute(
        f"SELECT {columns} FROM events UNION ALL SELECT {columns} FROM quarantine"
    ).fetchall()
    connection.close()
    return [Kept(*each) for each in found]


class Kept(NamedTuple):
    query: bytes
    body: bytes
    encoding: str


def quoting(file) -> int:
    """How many rows of a CSV file hold the number in digits of any script."""
    rows = csv.reader(io.StringIO(file.read_text(), newline=""), strict=True)
    digits = ("".join(str(int(each)) for each in "|".join(row) if each.isdecimal()) for row in rows)
    return sum("2125550142" in each for each in digits)


async def test_a_damaged_line_of_the_spill_is_searched_in_what_it_was_written_from(
    settings, tmp_path
):
    async with running(settings):
        pass
    spill = loader.load(settings, {}).state.spill
    lines = []
    for digits in (ARABIC, "２１２５５５０１４２", ESCAPED, "2125550199"):
        body = f'{{"mobile":"{digits}"}}'.encode()
        callback = RawCallback("sumotext", "POST", b"", JSON, body, 0)
        lines.append(b"0" * 8 + encode(Spilled(str(uuid7()), callback))[8:])
    aside = spill.with_name(f"{spill.name}.bad")
    aside.write_bytes(b"".join(lines))
    found = json.loads(await command(settings, "erase", "--json", number=NUMBER))
    assert found["found"] == {"spill": 3}
    assert aside.read_bytes() == lines[3]


KEEPING = """
import relay


class Keeping(relay.Sink):
    def __init__(self, *_):
        raise OSError("not now")

    async def send(self, delivery):
        pass
{erase}

@relay.hookimpl
def register_sinks(register):
    register("keeping", Keeping)
"""
ERASE = """
    async def erase(self, matcher, ids):
        return relay.Erased()
"""


@pytest.mark.parametrize(("erase", "code"), [(ERASE, 1), ("", 0)], ids=["files", "none"])
async def test_a_held_sink_that_keeps_files_has_to_be_resumed_before(
    settings, tmp_path, erase, code
):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins/keeping.py").write_text(KEEPING.format(erase=erase))
    text = settings.read_text().replace("sinks:", "sinks:\n  held: {plugin: keeping}")
    settings.write_text(text)
    async with running(settings) as (_, url, http):
        await fill(url, http)
        said = await command(settings, "erase", number=NUMBER, code=code)
        left = holders(tmp_path)
    if code:
        assert "the sink held is held, so its files cannot be searched" in said
        assert "out/events.csv" in left, "nothing has gone yet"
    else:
        assert left == set()
