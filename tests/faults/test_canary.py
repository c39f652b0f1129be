"""A canary's number goes every way there is: nothing that operators or strangers see shows it."""

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import httpx
import pytest
from oracle import Senders
from relays import PATIENCE, POLL, Relay
from stubs.receiver import Receiver, status

pytestmark = pytest.mark.timeout(180)  # many commands at once, on a busy machine

CANARY = "+13475550182"
NATIONAL = "3475550182"
SPELLINGS = (CANARY, NATIONAL, "(347) 555-0182", "1-347-555-0182", "347.555.0182")
LEAKED = " or ".join((*SPELLINGS, quote(SPELLINGS[2])))
SIGHTING = re.compile(rb"347[\s().\-]{0,3}555[\s().\-]{0,3}0182")
LEAKY = f"""
import asyncio
import threading
import relay

class Leaky(relay.Sink):
    async def open(self):
        asyncio.ensure_future(self.cough())

    async def cough(self):
        raise RuntimeError("nobody waits for {LEAKED}")

    async def send(self, delivery):
        number = "{LEAKED}"
        threading.Thread(target=int, args=(number,)).start()
        for say in (self.log.debug, self.log.info, self.log.warning, self.log.error):
            say("sending to %s", number)
        try:
            {{}}[number]
        except KeyError:
            self.log.exception("no such contact: %s", number)
        match delivery.event.data["keyword"]:
            case "REJECT":
                raise relay.Reject("no such contact: " + number)
            case "RETRY":
                raise relay.Retry(f"{{number}} is busy", 0.1)
            case "PAUSE":
                raise relay.Pause(f"{{number}} may not be written")
        raise ValueError("cannot write " + number)

@relay.hookimpl
def register_sinks(register):
    register("leaky", Leaky)
"""
SINKS = """  echo:
    plugin: webhook
    options: {{url: "{url}"}}
    allow_private: [127.0.0.0/8]
    retry: {{initial: 50ms, max: 100ms, attempts: 2, window: 0s}}
  blind:
    plugin: csv
    map: {{Number: "{{{{ data.mobile.number }}}}", Day: "{{{{ data.mobile | date('%d', '%m') }}}}"}}
    options: {{path: out/blind.csv}}
  torn:
    plugin: csv
    options: {{path: "out/{{{{ data.mobile }}}}/events.csv"}}
    retry: {{initial: 50ms, max: 100ms}}
  leaky:
    plugin: leaky
    retry: {{initial: 50ms, max: 100ms, attempts: 2, window: 0s}}
  missing:
    plugin: csv
    when: data.mobile.number.digits == '1'
    options: {{path: out/missing.csv}}
alerts:
  rules: {{opt_out_undelivered: 1s, backlog_age: 1s, sink_paused: 1s, quarantine: 1/1h}}
  webhook: {{url: "{alerts}", allow_private: [127.0.0.0/8]}}
"""
ALERTS = "/alerts"
ALTERED = ("-m", "altered", "relay.alerts.monitor.EVALUATE_EVERY=3", "run", "--verbose")
UNMASKED = ("-m", "unmasked", *ALTERED[2:])
COMMANDS = (
    ("status",),
    ("doctor",),
    ("check",),
    ("sinks", "list"),
    ("events", "list"),
    ("dead", "list"),
    ("quarantine", "list"),
    ("backup", "copy.db"),
)


async def echo(scope, send):
    """Refuse, quoting whom."""
    words = json.dumps({"error": " ".join(SPELLINGS)}).encode()
    code = 200 if scope["path"] == ALERTS else 400
    await status(code, {"x-contact": CANARY}, words)(scope, send)


def requests() -> list[bytes]:
    """What strangers and Sumotext send, well and badly."""
    form = f"mobile={quote(CANARY)}&carrierId=T&shortcode=84700&msg={quote(SPELLINGS[2])}"
    head = "HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n"
    keywords = ("JOIN", "STOP", "REJECT", "RETRY", "PAUSE")
    good = [f"GET /callbacks/sumotext?{form}&key={key} {head}\r\n" for key in keywords]
    bad = [
        f"GET /callbacks/sumotext?mobile={CANARY}&mobile={NATIONAL}0 {head}\r\n",
        f"GET /callbacks/sumotext?mobile={CANARY} {head}\r\n",
        f"GET /callbacks/{NATIONAL}?{form} {head}\r\n",
        f"GET /{NATIONAL} {head}\r\n",
        f"GET /callbacks/guarded/{NATIONAL}?{form} {head}\r\n",
        f"PUT /callbacks/sumotext?{form} {head}\r\n",
        f"HEAD /callbacks/sumotext?{form} {head}\r\n",
        f"GET /callbacks/sumotext?{form}&x={NATIONAL * 2000} {head}\r\n",
        f"GET /callbacks/sumotext?{form} {head}X: {NATIONAL * 2000}\r\n\r\n",
        f"POST /callbacks/sumotext {head}Content-Length: 300000\r\n\r\n{NATIONAL * 30000}",
        f"POST /callbacks/sumotext {head}Transfer-Encoding: chunked\r\n\r\n{NATIONAL}\r\n",
        f"POST /callbacks/sumotext {head}Content-Length: {NATIONAL}\r\n\r\nmobile={CANARY}",
        f"GET /callbacks/sumotext?{form}%zz&mobile={SPELLINGS[2]} {head}\r\n",
        f"{NATIONAL} {CANARY}\r\n\r\n",
        f"GET {CANARY} {head}\r\n",
        f"GET /callbacks/sumotext?{form} HTTP/{NATIONAL}\r\n\r\n",
    ]
    return [each.encode() for each in good + bad]


async def answer(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        writer.write_eof()
        return await asyncio.wait_for(reader.read(), PATIENCE)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def said(relay, words) -> bytes:
    """All that a command prints."""
    command = [sys.executable, "-m", "relay.cli", *words, "--config", relay.config]
    done = subprocess.run(
        command, capture_output=True, check=False, cwd=relay.folder, env=relay.environment
    )
    return done.stdout + done.stderr


async def told(relay) -> dict[str, bytes]:
    """What the admin listener shows, and what the system shows of the process."""
    address = next(
        line for line in relay.config.read_text().splitlines() if line.startswith("admin")
    ).split('"')[1]
    async with httpx.AsyncClient(trust_env=False) as client:
        shown = {
            path: (await client.get(f"http://{address}{path}")).content
            for path in ("/metrics", "/readyz", "/healthz")
        }
    process = Path(f"/proc/{relay.process.pid}")
    return shown | {name: (process / name).read_bytes() for name in ("cmdline", "environ")}


async def alerted(receiver) -> list[bytes]:
    """The alerts, as soon as there are any."""
    async with asyncio.timeout(PATIENCE):
        while not (found := [each.body for each in receiver.requests if each.path == ALERTS]):
            await asyncio.sleep(POLL)
    return found


async def seen(folder, command) -> dict[str, bytes]:
    """All that there is to be seen of a relay to which the canary came; by where."""
    (folder / "plugins").mkdir()
    (folder / "plugins/leaky.py").write_text(LEAKY)
    (folder / "out").mkdir()
    (folder / "out" / CANARY).write_text("no folder")
    async with Receiver() as receiver:
        receiver.otherwise = echo
        relay = Relay(
            folder,
            command=command,
            plugins="plugins",
            sinks=SINKS.format(url=receiver.url, alerts=receiver.url.replace("/hook", ALERTS)),
        )
        settings = relay.config.read_text()
        guarded = "sources: {guarded: {tokens: [a-token-of-many-letters]}, "
        relay.config.write_text(settings.replace("sources: {", guarded))
        try:
            await relay.start()
            answers = [answer(relay.port, each) for each in requests()]
            places = {f"answer {n}": each for n, each in enumerate(await asyncio.gather(*answers))}
            alerts = await alerted(receiver)
            places |= {f"alert {number}": body for number, body in enumerate(alerts)}
            places |= await told(relay)
            printed = [asyncio.to_thread(said, relay, words) for words in COMMANDS]
            places |= zip(map(" ".join, COMMANDS), await asyncio.gather(*printed), strict=True)
            await relay.fresh(Senders())
            assert await relay.stop() == 0
        finally:
            relay.close()
    names = "\n".join(str(each.relative_to(folder / "data")) for each in folder.glob("data/**/*"))
    places |= {"names of files": names.encode(), "log": relay.log.read_bytes()}
    assert SIGHTING.search(relay.store.read_bytes()), "the canary never came"
    assert SIGHTING.search(relay.csv.read_bytes())
    assert any(SIGHTING.search(unquote_to_bytes(each.body)) for each in receiver.requests)
    return places


def sightings(places: dict[str, bytes]) -> dict[str, bytes]:
    """Where the canary is to be seen, with what stands around it."""
    found = {place: SIGHTING.search(unquote_to_bytes(text)) for place, text in places.items()}
    return {
        place: match.string[max(0, match.start() - 80) : match.end() + 20]
        for place, match in found.items()
        if match
    }


async def test_the_canary_is_seen_nowhere(tmp_path):
    places = await seen(tmp_path, ALTERED)
    assert sightings(places) == {}
    answers = [text for place, text in places.items() if place.startswith("answer")]
    statuses = {int(text.split()[1]) for text in answers if text}
    print(f"\n{len(places)} places, {sum(map(len, places.values()))} bytes, answers {statuses}")
    assert statuses >= {200, 400, 401, 404, 405, 413, 414, 422, 431}
    assert b"0182" in places["log"], "it was not even masked: nothing was said of it"


async def test_the_canary_is_in_the_log_where_nothing_masks_it(tmp_path):
    places = await seen(tmp_path, UNMASKED)
    assert set(sightings(places)) == {"log"}
