"""`relay alerts test`: says for each channel what came of it."""

import asyncio
import json

import pytest
import yaml
from click.testing import CliRunner
from mailserver import mail_server
from stubs.receiver import Receiver, status

from relay.cli import main


@pytest.fixture
def run(tmp_path):
    async def run(alerts):
        path = tmp_path / "relay.yaml"
        path.write_text(yaml.safe_dump({"alerts": alerts}))
        words = ["alerts", "test", "--config", str(path)]
        return await asyncio.to_thread(CliRunner().invoke, main, words)

    return run


def webhook(receiver):
    return {"url": receiver.url, "allow_private": ["127.0.0.0/8"]}


def email(mails):
    return {
        "host": "127.0.0.1",
        "port": mails.port,
        "security": "none",
        "from": "relay@example.com",
        "to": ["ops@example.com"],
    }


async def test_both_are_told(run):
    async with Receiver() as receiver, mail_server() as mails:
        result = await run({"webhook": webhook(receiver), "email": email(mails)})
        mail = await mails.next()
    assert (result.exit_code, result.output) == (0, "webhook: told\nemail: told\n")
    assert "This is a test: nothing is wrong." in mail.get_content()
    (request,) = receiver.requests
    assert json.loads(request.body)["data"]["new"][0]["rule"] == "test"


async def test_one_that_is_not_told_says_why_and_the_other_is_tried(run):
    async with Receiver() as receiver, mail_server() as mails:
        receiver.otherwise = status(403)
        result = await run({"webhook": webhook(receiver), "email": email(mails)})
    assert result.exit_code == 1
    assert result.output == "webhook: the receiver answered 403\nemail: told\n"


async def test_without_a_channel_it_says_so(run):
    result = await run({"repeat": "1h"})
    assert result.exit_code == 1
    assert "names no webhook and no email" in result.output
