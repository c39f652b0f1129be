"""The whole relay in this process: started, asked about itself, stopped."""

import asyncio
import logging
from io import StringIO

import httpx
import orjson
import pytest

from relay.address import Address
from relay.config import load
from relay.fleet import Fleet
from relay.log import JsonLines
from relay.process import tell_of_error
from relay.server import listen
from relay.service import started
from relay.store import StoreLocked

YAML = """
server: {listen: "127.0.0.1:0"}
admin: {listen: "127.0.0.1:0"}
sources: {sumotext: {country: US}}
sinks:
  archive: {plugin: csv, options: {path: data/events.csv}}
"""
CALLBACK = "/callbacks/sumotext?mobile=2125550123&carrierId=VERIZONUS&key=JOIN"


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "relay.yaml"
    path.write_text(YAML)
    return load(path, {})


def url(server, path: str) -> str:
    host, port = server.address[:2]
    return f"http://{host}:{port}{path}"


async def test_the_admin_listener_tells_of_health_and_metrics(config):
    async with started(config) as service, httpx.AsyncClient(trust_env=False) as http:
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
    taken = listen(Address("127.0.0.1", 0))
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


async def test_a_courier_that_ends_by_itself_ends_the_service(config, monkeypatch):
    async def fail(_):
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(Fleet, "failure", fail)
    async with started(config) as service:
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
        httpx.AsyncClient(trust_env=False) as http,
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
        tell_of_error(
            None, {"message": "Exception in callback f('+12125551212')", "exception": error}
        )
    finally:
        logging.getLogger("relay").removeHandler(handler)
    line = orjson.loads(stream.getvalue())
    assert (line["message"], line["error"]) == ("Exception", "ValueError")
