"""What docs/operations.md says of limits, proxies and certificates is so."""

import re
import subprocess
from pathlib import Path

import aiosmtplib.protocol
import pytest
import yaml
from certificates import certify

from relay import crm
from relay.config import loader
from relay.config.model import Settings, SourceConfig
from relay.delivery import http, http_message, responses
from relay.server import protocol
from relay.server.access import UNAUTHENTICATED_RATE
from relay.server.connections import MAX_MEMORY
from relay.server.http_server import RENEWAL_TICKS
from relay.server.protocol import Protocol
from relay.server.tls import TlsAcceptor
from relay.units import Rate

TEXT = (Path(__file__).parent.parent / "docs/operations.md").read_text()
_, LIMITS = TEXT.split("\n## Limits, proxies and certificates\n")
TOKEN = "pW3kq0v9Zr2Lx7TnB5yHc8Md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", LIMITS, re.MULTILINE | re.DOTALL)


def loaded(folder, text):
    """A relay.yaml of this block, with sources that may be reached where it names none."""
    settings = {"sources": {"sumotext": {"tokens": [TOKEN]}}} | yaml.safe_load(text)
    (folder / "relay.yaml").write_text(yaml.safe_dump(settings))
    return loader.load(folder / "relay.yaml", {"SUMOTEXT_TOKEN": TOKEN})


@pytest.mark.parametrize("text", [text for language, text in BLOCKS if language == "yaml"])
def test_the_settings_load(tmp_path, text):
    (tmp_path / "tls").mkdir()
    cert, key = certify(tmp_path / "tls")
    cert.rename(tmp_path / "tls/fullchain.pem")
    key.rename(tmp_path / "tls/privkey.pem")
    assert loaded(tmp_path, text)


def test_the_limits_are_those():
    connections, limit = Settings().server.connections, SourceConfig().limit
    assert (connections.total, connections.each) == (1000, 250)
    assert (limit.rate, limit.bytes) == (Rate(10_000, 10), Rate(64 * 2**20, 10))
    assert Rate(1000, 60) == UNAUTHENTICATED_RATE
    assert (protocol.MAX_HEAD, protocol.MAX_BODY) == (16 * 1024, 256 * 1024)
    assert Protocol.receive_timeout == TlsAcceptor.handshake_timeout == 10
    assert Protocol.idle_timeout == 30
    assert RENEWAL_TICKS * 0.1 == 10
    assert MAX_MEMORY == 64 * 2**20
    assert (responses.MOST_INTERIM, http_message.MOST_HEADERS) == (8, 256)
    assert (http_message.LARGEST_HEAD, http.LARGEST_ANSWER) == (64 * 1024, 8 * 2**20)
    assert (http_message.MOST_SMALL, http_message.SMALL) == (4096, 32)
    assert aiosmtplib.protocol.MAX_RESPONSE_LENGTH == 32 * 1024
    for said in (
        "10,000 callbacks or 64 MiB in 10 s",
        "1,000 at once, 250",
        "1,000 in a minute",
        "64 MiB of",
        f"{crm.MOST_VALUES:,} values in a CRM's JSON",
        "32 KiB of a mail server's reply",
        "8 interim answers (1xx), 64 KiB or 256 headers",
        "a body of 8 MiB, unpacked; more than 4,096 chunks of less than 32 bytes",
    ):
        assert said in LIMITS


def test_the_script_of_certbot_puts_the_files_there(tmp_path):
    """With folders and an owner that a test may have."""
    (script,) = (text for language, text in BLOCKS if language == "sh")
    script = script.replace("/etc/relay", str(tmp_path)).replace("-o root -g relay ", "")
    lineage = tmp_path / "live"
    lineage.mkdir()
    cert, key = certify(lineage)
    cert.rename(lineage / "fullchain.pem")
    key.rename(lineage / "privkey.pem")
    environ = {"RENEWED_LINEAGE": str(lineage), "PATH": "/usr/bin:/bin"}
    subprocess.run(["sh", "-e", "-c", script], env=environ, check=True)
    found = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "tls").iterdir()}
    assert found == {"fullchain.pem": 0o640, "privkey.pem": 0o640}
