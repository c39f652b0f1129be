"""The whole relay in this process: started, asked about itself, stopped."""

import httpx
import pytest

from relay.address import Address
from relay.config import load
from relay.fleet import Fleet
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
    assert ready == {"ready": True, "reasons": [], "sinks": {"archive": {"state": "running"}}}
    assert 'relay_callbacks_total{source="sumotext",status="200"} 1.0' in metrics
    assert 'relay_callbacks_total{source="sumotext",status="422"} 1.0' in metrics
    assert 'relay_sink_state{sink="archive",state="running"} 1.0' in metrics
    assert 'relay_deliveries{sink="archive",state="' in metrics
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
