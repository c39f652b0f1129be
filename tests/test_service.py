"""The whole relay in this process: started, asked about itself, stopped."""

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from io import StringIO

import httpx
import orjson
import pytest
from click.testing import CliRunner
from relaying import relaying

from relay import service
from relay.cli import main
from relay.config.loader import load
from relay.daemon import log_loop_error
from relay.delivery.manager import SinkManager
from relay.health import Degraded, Probes, StoreBackoff
from relay.monitoring.logs import JsonLines
from relay.reexec import Inherited
from relay.server.sockets import Listeners, bind_tcp
from relay.service import ServiceState, started
from relay.spill.failover import FailoverStore
from relay.store import EventFilter, StoreError, StoreLocked
from relay.store.sqlite import SqliteStore
from relay.units import HostPort

YAML = """
server: {listen: "127.0.0.1:0"}
admin: {listen: "127.0.0.1:0"}
sources: {sumotext: {country: US}}
sinks:
  archive: {plugin: csv, options: {path: data/events.csv}}
"""
CALLBACK = "/callbacks/sumotext?mobile=2125550123&carrierId=VERIZONUS&key=JOIN"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "relay.yaml"
    path.write_text(YAML)
    return load(path, {})


def url(server, path: str) -> str:
    host, port = server.address[:2]
    return f"http://{host}:{port}{path}"


async def test_the_admin_listener_tells_of_health_and_metrics(config):
    async with started(config) as service, httpx.AsyncClient(trust_env=False, verify=False) as http:
        public, admin, _ = service.servers
        assert (await http.get(url(public, CALLBACK))).status_code == 200
        assert (await http.get(url(public, "/callbacks/sumotext?x=1"))).status_code == 422
        assert (await http.get(url(admin, "/healthz"))).json() == {"status": "ok"}
        ready = (await http.get(url(admin, "/readyz"))).json()
        metrics = (await http.get(url(admin, "/metrics"))).text
    assert ready == {
        "ready": True,
        "reasons": [],
        "store": {"state": "writable"},
        "sinks": {"archive": {"state": "running"}},
    }
    callbacks = 'relay_callbacks_total{kind="%s",outcome="%s",source="sumotext"} 1.0'
    assert callbacks % ("web_form", "accepted") in metrics
    assert callbacks % ("", "quarantined") in metrics
    assert 'relay_sink_state{sink="archive",state="running"} 1.0' in metrics
    assert "5550123" not in metrics


async def test_a_second_relay_on_the_same_store_does_not_start(config):
    async with started(config):
        with pytest.raises(StoreLocked, match="in use"):
            async with started(config):
                pytest.fail("it started")


async def test_a_port_that_is_taken_is_named_and_the_store_let_go_of(config, tmp_path):
    taken = bind_tcp(HostPort("127.0.0.1", 0))
    port = taken.getsockname()[1]
    path = tmp_path / "other.yaml"
    path.write_text(
        YAML.replace('admin: {listen: "127.0.0.1:0"}', f"admin: {{listen: 127.0.0.1:{port}}}")
    )
    taken.listen()
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
        async with started(load(path, {})):
            pytest.fail("it started")
    taken.close()
    async with started(config):
        pass


# a store that comes later


class Gate:
    """Keeps the store from being opened until the test lets it."""

    def __init__(self, monkeypatch, *errors) -> None:
        self.begun = asyncio.Event()
        self.open = asyncio.Event()
        self.errors = list(errors)
        self._open = SqliteStore.open
        monkeypatch.setattr(SqliteStore, "open", self._opened)

    async def _opened(self, *arguments, **options):
        self.begun.set()
        await self.open.wait()
        if self.errors:
            raise self.errors.pop(0)
        return await self._open(*arguments, **options)


@pytest.fixture
def soon(config, monkeypatch):
    """Nothing waits for long; the store's folder is there."""
    config.store.parent.mkdir()
    monkeypatch.setattr(service, "OPEN_WITHIN", 0.05)
    monkeypatch.setattr(service, "TRY_AGAIN", 0.05)


async def sent(http, running, count=3, headers=None):
    """The ids that the senders are told."""
    answers = [
        await http.get(url(running.public[0], CALLBACK), headers=headers) for _ in range(count)
    ]
    assert {each.status_code for each in answers} == {200}
    return [each.json()["id"] for each in answers]


async def stored(running, number):
    """The events in the store, in its order, as soon as they are so many."""
    async with asyncio.timeout(20):
        await running.reached(ServiceState.RUNNING)
        while await running._store.event_count() < number or running._failover.records():
            await asyncio.sleep(0.02)
    return [row.event for row in await running._store.events_after(EventFilter(), after=0)]


async def test_callbacks_are_taken_while_the_store_is_being_opened(config, monkeypatch, soon):
    gate = Gate(monkeypatch)
    async with started(config) as running, httpx.AsyncClient(trust_env=False, verify=False) as http:
        acknowledged = await sent(http, running)
        assert running.state is ServiceState.OPENING
        answer = await http.get(url(running.inner[0], "/readyz"))
        assert answer.status_code == 503
        assert answer.json()["store"] == {"state": "opening"}
        assert "3 of them wait for it" in answer.json()["reasons"][0]
        assert "3.0" in (await http.get(url(running.inner[0], "/metrics"))).text
        asked = await asyncio.to_thread(CliRunner().invoke, main, ["status", "-c", config.path])
        assert (asked.exit_code, "the store is being opened" in asked.output) == (1, True)
        gate.open.set()
        await running.opened()
        acknowledged += await sent(http, running)
        assert [event.id for event in await stored(running, 6)] == acknowledged
        assert (await http.get(url(running.inner[0], "/readyz"))).status_code == 200
        asked = await asyncio.to_thread(CliRunner().invoke, main, ["status", "-c", config.path])
        assert asked.exit_code == 0


async def test_a_store_that_opens_soon_needs_no_spill(config):
    async with started(config) as running, httpx.AsyncClient(trust_env=False, verify=False) as http:
        assert running.state is ServiceState.RUNNING
        await sent(http, running)
        assert not config.state.spill.exists()


async def test_who_comes_before_it_takes_callbacks_waits(config, monkeypatch):
    """Nobody is refused from the moment on when the store begins to be opened."""
    gate = Gate(monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config.path.write_text(YAML.replace("127.0.0.1:0", f"127.0.0.1:{port}", 1))
    async with contextlib.AsyncExitStack() as stack:
        starting = asyncio.create_task(stack.enter_async_context(started(load(config.path, {}))))
        await gate.begun.wait()
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        gate.open.set()
        await starting
        writer.close()


async def test_a_store_that_opens_and_cannot_be_read_is_tried_again(config, monkeypatch, soon):
    real, tries = SinkManager.make, []

    async def make(*arguments):
        tries.append(1)
        if len(tries) < 3:
            raise StoreError("the store cannot be read")
        return await real(*arguments)

    monkeypatch.setattr(SinkManager, "make", make)
    async with started(config) as running, httpx.AsyncClient(trust_env=False, verify=False) as http:
        await running.opened()
        assert running.status.health()["store"] == {"state": "unopened"}
        acknowledged = await sent(http, running)
        assert [event.id for event in await stored(running, 3)] == acknowledged
    assert len(tries) == 3


async def test_the_states_of_a_service(config, monkeypatch, soon):
    real, errors = SinkManager.make, [StoreError("the store cannot be read")]

    async def make(*arguments):
        if errors:
            raise errors.pop()
        return await real(*arguments)

    monkeypatch.setattr(SinkManager, "make", make)
    gate = Gate(monkeypatch)
    async with started(config) as running:
        assert running.state is ServiceState.OPENING
        gate.open.set()
        await running.reached(ServiceState.DEGRADED)
        await running.reached(ServiceState.RUNNING)
        failure = asyncio.create_task(running.failure())
        running._store_broke()
        with pytest.raises(StoreError):
            await failure
        assert running.state is ServiceState.BREAKING
    assert running.state is ServiceState.STOPPING
    running._store_broke()
    assert running.state is ServiceState.STOPPING


async def test_a_store_that_breaks_before_it_is_used_ends_the_process_all_the_same(
    config, monkeypatch
):
    gate = Gate(monkeypatch)
    async with started(config) as running:
        running._store_broke()
        assert running.state is ServiceState.OPENING
        gate.open.set()
        await running.reached(ServiceState.BREAKING)
        with pytest.raises(StoreError):
            await running.failure()


async def test_a_store_that_broke_is_let_alone_for_a_while(config, soon):
    inherited = Inherited(Listeners(), broke=StoreBackoff("EIO", 0.2))
    async with (
        started(config, inherited=inherited) as running,
        httpx.AsyncClient(trust_env=False, verify=False) as http,
    ):
        assert "EIO; callbacks are taken" in running.status.health()["reasons"][0]
        acknowledged = await sent(http, running)
        assert [event.id for event in await stored(running, 3)] == acknowledged


async def test_what_comes_without_a_store_keeps_its_trace(config, monkeypatch, soon):
    gate = Gate(monkeypatch)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")  # nobody is to wait for more tries
    text = YAML + "tracing: {endpoint: 'http://127.0.0.1:9/v1/traces'}\n"
    config.path.write_text(text)
    async with (
        started(load(config.path, {})) as running,
        httpx.AsyncClient(trust_env=False, verify=False) as http,
    ):
        await sent(http, running, 1, {"traceparent": TRACEPARENT})
        gate.open.set()
        (event,) = await stored(running, 1)
    assert event.traceparent == TRACEPARENT


UNMADE = """
import relay


class Sink(relay.Sink):
    def __init__(self, *_):
        raise {error}

    async def send(self, delivery):
        pass


@relay.hookimpl
def register_sinks(register):
    register("unmade", Sink)
"""


@pytest.mark.parametrize(
    ("error", "reason"), [("OSError('taken')", "OSError: taken"), ("SystemExit(2)", "SystemExit")]
)
async def test_a_sink_that_could_be_made_a_moment_ago_is_held(tmp_path, caplog, error, reason):
    """A lock or a port, say, that it takes for itself when it is made for a try."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins/unmade.py").write_text(UNMADE.format(error=error))
    async with relaying(tmp_path, {"plugin": "unmade"}) as relay:
        await relay.send(1)
        found = await relay.reached(pending=1)
        words = ["sinks", "resume", "crm", "--config", str(relay.path)]
        asked = await asyncio.to_thread(CliRunner().invoke, main, words)
    assert (asked.exit_code, "the sink crm is held: the plugin" in asked.stderr) == (1, True)
    assert found["state"] == "held"
    assert f"the plugin unmade cannot make it: {reason}" in found["reason"]
    assert "sink crm is held, its deliveries are queued" in caplog.text


async def test_a_worker_that_ends_by_itself_ends_the_service(config, monkeypatch):
    async def fail(_):
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(SinkManager, "failure", fail)
    async with started(config) as service:
        with pytest.raises(RuntimeError, match="a mistake"):
            await service.failure()


async def test_a_worker_that_ends_while_the_spill_hangs_ends_the_service(soon, config, monkeypatch):
    async def fail(_):
        raise RuntimeError("a mistake of ours")

    async def hang(*_):
        await asyncio.Event().wait()

    monkeypatch.setattr(SinkManager, "failure", fail)
    monkeypatch.setattr(FailoverStore, "attach_store", hang)
    async with started(config) as service, asyncio.timeout(10):
        with pytest.raises(RuntimeError, match="a mistake"):
            await service.failure()


async def test_a_certificate_that_is_none_is_named_and_nothing_left_open(config, tmp_path):
    path = tmp_path / "other.yaml"
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("nonsense")
    tls = "tls: {cert: cert.pem, key: key.pem}"
    path.write_text(YAML.replace("server: {", f"server: {{{tls}, "))
    with pytest.raises(OSError, match=r"cert\.pem and .*key\.pem are no certificate"):
        async with started(load(path, {})):
            pytest.fail("it started")
    async with started(config):
        pass


SLOW_TO_OPEN = """
import asyncio, relay

class Slow(relay.Sink):
    async def open(self):
        await asyncio.sleep(60)

    async def send(self, delivery):
        pass

@relay.hookimpl
def register_sinks(register):
    register("slow", Slow)
"""


async def test_a_sink_that_is_slow_to_open_holds_up_no_other(config, tmp_path):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "slow.py").write_text(SLOW_TO_OPEN)
    config.path.write_text(YAML.replace("sinks:", "sinks:\n  aaa: {plugin: slow}"))
    async with (
        started(load(config.path, {})) as service,
        httpx.AsyncClient(trust_env=False, verify=False) as http,
    ):
        await http.get(url(service.servers[0], CALLBACK))
        async with asyncio.timeout(5):
            while not (tmp_path / "data" / "events.csv").exists():
                await asyncio.sleep(0.02)


def test_an_error_that_nobody_waits_for_is_logged_without_its_values():
    stream = StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logging.getLogger("relay").addHandler(handler)
    try:
        error = ValueError("+12125551212")
        log_loop_error(
            None, {"message": "Exception in callback f('+12125551212')", "exception": error}
        )
    finally:
        logging.getLogger("relay").removeHandler(handler)
    line = orjson.loads(stream.getvalue())
    assert (line["message"], line["error"]) == ("Exception", "ValueError")


def test_a_relay_without_its_store_that_cannot_read_its_spill_does_not_count():
    facts = {"relay_spill_records": 1, "relay_spill_readable": 0.0}
    degraded = Degraded(Probes(None, None, Counter, lambda: facts, list, lambda: ""))
    assert degraded.reason.endswith("taken, and an unknown number of them waits for it")


@pytest.mark.parametrize(
    ("records", "refusal", "said"),
    [
        (1, "", "callbacks are taken, and 1 of them waits for it"),
        (2, "", "callbacks are taken, and 2 of them wait for it"),
        (2, "all is full", "callbacks are refused: all is full; and 2 of them wait for it"),
    ],
)
def test_a_relay_without_its_store_says_what_becomes_of_callbacks(records, refusal, said):
    facts = {"relay_spill_records": records}
    degraded = Degraded(Probes(None, None, Counter, lambda: facts, list, lambda: refusal))
    assert degraded.reason == f"the store is being opened; {said}"
