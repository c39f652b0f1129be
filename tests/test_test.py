"""`relay test` beside a running relay: what becomes of the callback in each sink is told."""

import asyncio
import json
import socket

import yaml
from click.testing import CliRunner
from stubs.receiver import Receiver

from relay import service
from relay.cli import main
from relay.config import loader

CRM = {
    "login_url": "http://127.0.0.1:9",
    "client_id": "relay",
    "client_secret": "x",
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def settings(url):
    """A sink for each way that it may go."""
    private = {"allow_private": ["127.0.0.0/8"]}
    return {
        "server": {"listen": f"127.0.0.1:{free_port()}"},
        "admin": {"listen": "127.0.0.1:0"},
        "sources": {"sumotext": {"tokens": ["${TOKEN}"]}},
        "sinks": {
            "hook": {"plugin": "webhook", "options": {"url": url}, **private},
            "crm": {"plugin": "salesforce", "map": {"LastName": "Doe"}, "options": CRM, **private},
            "polls": {
                "plugin": "csv",
                "when": "type == 'com.sumotext.poll'",
                "options": {"path": "data/polls.csv"},
            },
            "off": {"plugin": "csv", "enabled": False, "options": {"path": "data/off.csv"}},
        },
    }


def command(path, *words):
    return CliRunner(env={"TOKEN": "first-token"}).invoke(
        main, ["test", *words, "--config", str(path)], catch_exceptions=False
    )


async def outcome(folder, *words, sinks=None):
    """What the command says while a relay runs, and what came to its webhook."""
    async with Receiver() as receiver:
        path = folder / "relay.yaml"
        path.write_text(
            yaml.safe_dump(settings(receiver.url) | ({"sinks": sinks} if sinks else {}))
        )
        async with service.started(loader.load(path, {"TOKEN": "first-token"})):
            result = await asyncio.to_thread(command, path, *words)
        return result, [json.loads(each.body) for each in receiver.requests]


async def test_what_became_of_it_in_each_sink_is_told(tmp_path):
    result, received = await outcome(tmp_path, "--json", "--wait", "5")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    (event,) = received
    assert event["id"] == found["id"]
    assert event["test"] is True
    assert {name: sink["state"] for name, sink in found["sinks"].items()} == {
        "hook": "delivered",
        "crm": "delivered",
        "polls": "none",
        "off": "none",
    }
    assert "not sent" in found["sinks"]["crm"]["reason"]
    assert found["sinks"]["polls"]["reason"] == "`when` does not match"
    assert found["sinks"]["off"]["reason"] == "the sink is disabled"


async def test_the_kind_and_the_parameters_may_be_told(tmp_path):
    result, received = await outcome(tmp_path, "poll", "label=Tampa")
    assert result.exit_code == 0, result.output
    assert received[0]["type"] == "com.sumotext.poll"
    assert received[0]["data"]["label"] == "Tampa"
    assert "Stored as event " in result.stdout
    assert result.stdout.count("delivered") == 3


async def test_a_sink_that_does_not_take_it_makes_it_fail_with_the_reason(tmp_path):
    refused = {
        "gone": {
            "plugin": "webhook",
            "options": {"url": "http://127.0.0.1:9/"},
            "allow_private": ["127.0.0.0/8"],
        }
    }
    result, _ = await outcome(tmp_path, "--wait", "1", sinks=refused)
    assert result.exit_code == 1
    assert "pending" in result.stdout
    assert "cannot be reached" in result.stdout


async def test_a_halted_sink_is_not_waited_for(tmp_path):
    async with Receiver() as receiver:
        path = tmp_path / "relay.yaml"
        path.write_text(yaml.safe_dump(settings(receiver.url)))
        async with service.started(loader.load(path, {"TOKEN": "first-token"})):
            words = ["sinks", "pause", "hook", "--config", str(path)]
            paused = await asyncio.to_thread(CliRunner().invoke, main, words)
            assert paused.exit_code == 0
            async with asyncio.timeout(10):
                result = await asyncio.to_thread(command, path, "--wait", "600")
    assert result.exit_code == 1
    assert "paused by hand" in result.stdout


def test_a_relay_that_does_not_run_is_said(tmp_path):
    path = tmp_path / "relay.yaml"
    path.write_text(yaml.safe_dump(settings("http://127.0.0.1:9/")))
    result = command(path)
    assert result.exit_code == 1
    assert "is the relay running?" in result.stderr
