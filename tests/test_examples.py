"""The vendor's own examples through a whole relay, and what must happen to callbacks besides."""

import asyncio
import csv
import json
import os
import signal
import socket
import subprocess
import sys
from base64 import b64encode
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from cloudevents.v1.http import from_json
from listening import KINDS, QUERIES, answers
from standardwebhooks import Webhook
from stubs.receiver import Receiver, slow, status

from relay import service
from relay.cli import main
from relay.config import loader

ROOT = Path(__file__).parent.parent
SECRET = "whsec_" + b64encode(bytes(range(32))).decode()
MOBILE = "+12125551212"
# The cells that differ from example to example, in the order in which they stand in the row.
CELLS = ("subject", "short_code", "keyword", "carrier", "message", "message_id", "reply", "label")
ROWS = [
    ("84700/SOMEKEY", "84700", "SOMEKEY", "VERIZONUS", "", "", "", ""),
    ("84700/FB1", "84700", "FB1", "VERIZONUS", "", "", "A", "Tampa"),
    ("84700/FB1", "84700", "FB1", "VERIZONUS", "", "", "A", "Tampa"),
    ("keyword", "", "keyword", "", "ServerMsg", "", "", ""),
    ("84700/SOMEKEYWORD", "84700", "SOMEKEYWORD", "VERIZONUS", "MOBILEUSERSMESSAGE", "", "", ""),
    ("84700/SUMOX", "84700", "SUMOX", "VERIZONUS", "have a nice day", "2xgh679okl34x", "", ""),
]
FIELDS = [
    {"Name": "Bill", "DOB": "1/1/2000", "Zip": "10024"},
    {"city": "Tampa"},
    {},
    {},
    {"Name": "Mary Jane ", "Zip": "10054"},
    {},
]


@pytest.fixture
async def receiver():
    async with Receiver() as receiver:
        yield receiver


def configure(folder, receiver, *, port=0, **source):
    """A relay.yaml with both built-in sinks; what a test waits for is made quick."""
    soon = {"retry": {"initial": "50ms", "max": "200ms"}, "breaker": {"cooldown": "200ms"}}
    settings = {
        "server": {"listen": f"127.0.0.1:{port}"},
        "admin": {"listen": "127.0.0.1:0"},
        "sources": {"sumotext": {"country": "US", **source}},
        "sinks": {
            "archive": {"plugin": "csv", "options": {"path": "data/events.csv"}},
            "hook": {
                "plugin": "webhook",
                "options": {"url": receiver.url, "secrets": [SECRET]},
                "allow_private": ["127.0.0.0/8"],
                **soon,
            },
        },
    }
    (folder / "relay.yaml").write_text(yaml.safe_dump(settings))
    return folder / "relay.yaml"


@asynccontextmanager
async def relaying(path):
    """The whole relay in this process; gives the port of its public listener."""
    async with service.started(loader.load(path, {})) as running:
        yield running.address[1]


async def send(port, query, headers=b""):
    """One callback over a socket of its own, byte for byte; the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        line = b"GET /callbacks/sumotext?" + query + b" HTTP/1.1\r\n"
        writer.write(line + headers + b"Host: relay.example.com\r\nConnection: close\r\n\r\n")
        (answer,) = answers(await asyncio.wait_for(reader.read(), 10))
    finally:
        writer.close()
    return answer


async def until(condition, seconds=15):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


def rows(folder):
    path = folder / "data" / "events.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


async def command(path, *arguments, status=0):
    """What a command prints, as JSON. In a thread, as it has an event loop of its own."""
    words = [*arguments, "--config", str(path), "--json"]
    result = await asyncio.to_thread(CliRunner().invoke, main, words, catch_exceptions=False)
    assert result.exit_code == status, result.output
    return json.loads(result.stdout)


async def test_the_six_examples_end_in_the_file_and_at_the_webhook(tmp_path, receiver):
    path = configure(tmp_path, receiver)
    async with relaying(path) as port:
        replies = [await send(port, query) for query in QUERIES]
        await until(lambda: len(receiver.requests) == 6 and len(rows(tmp_path)) == 6)
    assert [answer.status for answer in replies] == [200] * 6
    answered = {answer.json()["id"]: answer.json()["type"] for answer in replies}
    assert list(answered.values()) == [f"com.sumotext.{kind}" for kind in KINDS]
    check_rows(rows(tmp_path), answered)
    check_requests(receiver.requests, answered)
    report = await command(path, "status")
    assert report["events"] == 6
    assert report["quarantine"] == 0
    assert [sink["delivered"] for sink in report["sinks"].values()] == [6, 6]


def check_rows(found, answered):
    """One row for each, in order, as they are all of one contact."""
    assert [(row["id"], row["type"]) for row in found] == list(answered.items())
    assert [tuple(row[name] for name in CELLS) for row in found] == ROWS
    assert [json.loads(row["fields"]) for row in found] == FIELDS
    for row in found:
        assert (row["mobile"], row["country"]) == (MOBILE, "US")
        assert (row["source"], row["consent"]) == ("/callbacks/sumotext", "")


def check_requests(requests, answered):
    """Read by readers that are not the relay's own."""
    for request, (event_id, event_type), row, fields in zip(
        requests, answered.items(), ROWS, FIELDS, strict=True
    ):
        assert Webhook(SECRET).verify(request.body, request.headers)
        assert request.headers["webhook-id"] == event_id
        assert request.headers["content-type"] == "application/cloudevents+json"
        event = from_json(request.body)
        assert (event["id"], event["type"], event["subject"]) == (event_id, event_type, row[0])
        data = event.get_data()
        assert (data["mobile"], data["country"], data["fields"]) == (MOBILE, "US", fields)
        assert tuple(data[name] or "" for name in CELLS[1:]) == row[1:]


async def test_the_same_examples_as_forms_make_the_same_events(tmp_path, receiver):
    path = configure(tmp_path, receiver)
    async with relaying(path) as port:
        for query in QUERIES:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = b"POST /callbacks/sumotext HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n"
            form = b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n"
            writer.write(head + form % len(query) + query)
            (answer,) = answers(await asyncio.wait_for(reader.read(), 10))
            writer.close()
            assert answer.status == 200
        await until(lambda: len(rows(tmp_path)) == 6)
    assert [tuple(row[name] for name in CELLS) for row in rows(tmp_path)] == ROWS


async def test_a_message_forwarded_twice_is_one_event(tmp_path, receiver):
    """Only its `smsid` proves that; the same vote twice is two votes."""
    async with relaying(configure(tmp_path, receiver)) as port:
        messages = [await send(port, QUERIES[5]) for _ in range(2)]
        votes = [await send(port, QUERIES[2]) for _ in range(2)]
        await until(lambda: len(receiver.requests) == 3 and len(rows(tmp_path)) == 3)
    assert messages[0].json() == messages[1].json()
    assert votes[0].json()["id"] != votes[1].json()["id"]


@pytest.mark.parametrize("word", [b"STOP", b"stop.", b"Opt Out"])
async def test_a_stop_word_is_an_opt_out_at_every_sink(tmp_path, receiver, word):
    """In any callback that brings a message, with its space as it comes."""
    query = b"country=USA&shortcode=84700&key=JOIN&mobile=2125551212&carrierId=VERIZONUS&msg="
    async with relaying(configure(tmp_path, receiver)) as port:
        assert (await send(port, query + word)).status == 200
        await until(lambda: receiver.requests and rows(tmp_path))
    assert rows(tmp_path)[0]["consent"] == "opt_out"
    assert from_json(receiver.requests[0].body).get_data()["consent"] == "opt_out"


async def test_what_is_not_understood_is_kept_and_released_after_a_fix(tmp_path, receiver):
    query = b"carrierId=VERIZONUS&key=JOIN&Phone=2125551212&Name=Mary"
    path = configure(tmp_path, receiver)
    async with relaying(path) as port:
        answer = await send(port, query)
    assert answer.status == 422
    kept = answer.json()["id"]
    assert [each["id"] for each in await command(path, "quarantine", "list")] == [kept]
    assert (await command(path, "quarantine", "release", kept, status=1))["released"] == []

    configure(tmp_path, receiver, rename={"Phone": "mobile"})
    (released,) = (await command(path, "quarantine", "release", kept))["released"]
    assert await command(path, "quarantine", "list") == []
    async with relaying(path):
        await until(lambda: receiver.requests and len(rows(tmp_path)) == 1)
    (row,) = rows(tmp_path)
    assert (row["id"], row["mobile"]) == (released["event"], MOBILE)
    assert receiver.requests[0].headers["webhook-id"] == released["event"]


async def test_a_callback_with_a_mistyped_token_is_kept_and_released(tmp_path, receiver):
    """The commonest mistake of a first day costs nothing."""
    path = configure(tmp_path, receiver, tokens=["the-right-one"])
    async with relaying(path) as port:
        answer = await send(port, QUERIES[0], b"X-Relay-Token: the-rihgt-one\r\n")
    assert answer.status == 401
    (kept,) = await command(path, "quarantine", "list")
    assert (kept["status"], kept["source"]) == (401, "sumotext")
    assert (await command(path, "quarantine", "release", "--all"))["released"] == []
    configure(tmp_path, receiver, tokens=["the-right-one", "the-rihgt-one"])
    (released,) = (await command(path, "quarantine", "release", "--token-now-valid"))["released"]
    async with relaying(path):
        await until(lambda: receiver.requests and len(rows(tmp_path)) == 1)
    assert rows(tmp_path)[0]["id"] == released["event"]


@pytest.fixture
def processes():
    """Those that a test starts; what it leaves running is killed."""
    processes = []
    yield processes
    for process in processes:
        process.kill()
        process.wait(10)


async def test_sigterm_and_a_start_lose_nothing(tmp_path, receiver, processes):
    """Callbacks come in all the while; what was acknowledged is delivered, and not twice."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = configure(tmp_path, receiver, port=port)
    receiver.then(*[status(503)] * 3)
    receiver.otherwise = slow(0.5)
    first = await start(path, port, processes)
    acknowledged = []
    sender = asyncio.create_task(send_until_refused(port, acknowledged))
    await until(lambda: len(acknowledged) > 50)
    await stop(first)
    await sender
    before = len(receiver.requests)
    assert before < len(acknowledged), "nothing was pending, so this shows nothing"

    receiver.otherwise = status(200)
    second = await start(path, port, processes)
    await until(lambda: delivered(receiver) >= set(acknowledged))
    await until(lambda: len(rows(tmp_path)) >= len(acknowledged))
    await stop(second)
    assert delivered(receiver) == set(acknowledged)
    assert len(receiver.requests) == len(acknowledged) + 3  # the three that were answered 503
    assert sorted(row["id"] for row in rows(tmp_path)) == sorted(acknowledged)


def delivered(receiver):
    return {request.headers["webhook-id"] for request in receiver.requests}


async def start(path, port, processes):
    with (path.parent / "relay.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "relay.cli", "run", "--config", str(path)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=log,
        )
    processes.append(process)
    await until(lambda: process.poll() is not None or listens(port))
    assert process.poll() is None, (path.parent / "relay.log").read_text()
    return process


def listens(port):
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


async def stop(process):
    process.send_signal(signal.SIGTERM)
    await until(lambda: process.poll() is not None)
    assert process.returncode == 0


async def send_until_refused(port, acknowledged):
    """Note the ids. A connection that is taken is answered, up to the last."""
    for number in range(10_000):
        query = b"mobile=212555%04d&carrierId=V&key=JOIN" % number
        try:
            answer = await send(port, query)
        except ConnectionRefusedError:
            return
        assert answer.status == 200
        acknowledged.append(answer.json()["id"])
    raise AssertionError("it was never refused")
