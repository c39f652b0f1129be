"""A sink whose vendor counts calls, seen from outside: what goes, and what the operator is told."""

import asyncio
import json
import re

import httpx
import pytest
from click.testing import CliRunner

from relay.cli import main
from relay.config.loader import load
from relay.service import started

YAML = """
server: {listen: "127.0.0.1:0"}
admin: {listen: "127.0.0.1:0"}
timezone: America/New_York
sources: {sumotext: {country: US}}
sinks:
  crm: {plugin: metered, concurrency: 1}
"""
METERED = """
import relay

class Metered(relay.Sink):
    def __init__(self, *given):
        super().__init__(*given)
        self.quota = relay.Quota(daily=10)

    async def send(self, delivery):
        await self.quota.acquire()

@relay.hookimpl
def register_sinks(register):
    register("metered", Metered)
"""
REASON = (
    r"quota: 9 of 10 calls of the day used; only opt-outs go,"
    r" until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d +\n"
)


@pytest.fixture
async def service(tmp_path):
    path = tmp_path / "relay.yaml"
    path.write_text(YAML)
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "metered.py").write_text(METERED)
    async with started(load(path, {})) as running:
        yield running


@pytest.fixture
def relay(tmp_path):
    """Run a command; it asks the service."""

    async def run(*arguments):
        invoke = CliRunner().invoke
        line = [*arguments, "--config", str(tmp_path / "relay.yaml")]
        result = await asyncio.to_thread(invoke, main, line, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


@pytest.fixture
async def get(service):
    """Ask the public listener, or the admin one; return the text."""
    async with httpx.AsyncClient(trust_env=False, verify=False) as http:

        async def get(path, server=0):
            host, port = service.servers[server].address[:2]
            response = await http.get(f"http://{host}:{port}{path}")
            assert response.status_code == 200
            return response.text

        yield get


async def test_the_operator_is_told_why_and_until_when_only_opt_outs_go(relay, get):
    async def delivered(number):
        async with asyncio.timeout(10):
            line = f'relay_deliveries_total{{outcome="delivered",sink="crm"}} {number}.0'
            while line not in await get("/metrics", server=1):
                await asyncio.sleep(0.02)

    for number in range(12):
        await get(f"/callbacks/sumotext?mobile=21255512{number:02}&carrierId=V&key=JOIN")
    await delivered(9)
    metrics = await get("/metrics", server=1)
    assert 'relay_sink_quota_used_ratio{sink="crm"} 0.9\n' in metrics
    assert 'relay_sink_state{sink="crm",state="running"} 1.0\n' in metrics
    for command in (["status"], ["sinks", "list"]):
        assert re.search(rf"crm .*running .* {REASON}", await relay(*command))
    crm = json.loads(await relay("status", "--json"))["sinks"]["crm"]
    assert (crm["state"], crm["pending"]) == ("running", 3)
    assert crm["quota"] == {"used": 9, "most": 10, "share": 0.9}
    await get("/callbacks/sumotext?mobile=2125551299&smsid=1&key=JOIN&msg=STOP")
    await delivered(10)
    assert json.loads(await relay("status", "--json"))["sinks"]["crm"]["pending"] == 3
