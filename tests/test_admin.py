"""The admin listener: under which names it answers."""

import httpx
import pytest

from relay.server import admin
from relay.server.admin import MISDIRECTED


async def health():
    return {"ready": True, "reasons": [], "sinks": {}}


async def ask(path, host):
    app = admin.app(health, None, ["Relay.example"])
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://127.0.0.1"
    ) as http:
        return (await http.get(path, headers={"host": host})).status_code


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 404),
        ("127.0.0.1:8081", 404),
        ("[::1]:8081", 404),
        ("localhost:8081", 404),
        ("LOCALHOST", 404),
        ("relay.example", 404),
        ("RELAY.example:8081", 404),
        ("evil.example", MISDIRECTED),
        ("evil.example:8081", MISDIRECTED),
        ("127.0.0.1.evil.example", MISDIRECTED),
        ("localhost.evil.example", MISDIRECTED),
        ("relay.example.evil.example", MISDIRECTED),
        ("[", MISDIRECTED),
        (":8081", MISDIRECTED),
    ],
)
async def test_other_names_are_refused_for_all_but_health(host, status):
    """404 is what a known name gets: there is nothing else yet."""
    assert await ask("/", host) == status
    assert await ask("/healthz", host) == 200
    assert await ask("/readyz", host) == 200
