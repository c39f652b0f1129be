"""Scopes: those that the README gives for a feature are enough for it, and each is needed."""

import re
from pathlib import Path

import pytest
from hubspotsink import delivery, kinds, opened
from stubs.hubspot import HubSpotStub
from stubs.vendor import serving

import relay

README = (Path(__file__).parents[2] / "README.md").read_text()
MESSAGE = {"message": "{{ data.message }}"}
OBJECT = {"type": "2-123", "id_property": "event_id", "association": 17, "map": MESSAGE}
EVENT = {"event": {"name": "pe123_sms", "map": MESSAGE}}
LOG = {"communication": {"body": "{{ data.message }}", "id_property": None}}
CUSTOM = {"object": "2-123", "id_property": "event_id", "columns": ("message",)}
FEATURES = {
    "contacts": {"match": ["key", "phone"]},
    "`object` of your own": CUSTOM,
    "`activity.communication`": {"activity": LOG},
    "`activity.object`": {"activity": {"object": OBJECT}},
    "`activity.event`": {"activity": EVENT},
}
ONLY_CHECKED = {"behavioral_events.event_definitions.read_write"}
"""What is needed to see whether all is well, and not to deliver."""


def documented():
    """The scopes by feature."""
    table = README.partition("| for | scopes |")[2].partition("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    return {feature: set(re.findall(r"`([a-z_.]+)`", scopes)) for feature, scopes in rows}


def wanted(feature):
    own = documented()[feature]
    return own if feature == "`object` of your own" else own | documented()["contacts"]


@pytest.fixture
async def stub():
    stub = HubSpotStub()
    async with serving(stub.app) as stub.url:
        yield stub


def sent(feature):
    record = {"message": "hello"} if feature == "`object` of your own" else {}
    made = delivery(1, record)
    if record:
        made.record.clear()
        made.record.update(record)
    return made


@pytest.mark.parametrize("feature", FEATURES)
async def test_the_scopes_of_the_readme_are_enough(stub, feature):
    stub.scopes = wanted(feature)
    async with opened(stub.url, **FEATURES[feature]) as sink:
        assert await sink.check() == []
        assert kinds(await sink.send_batch([sent(feature)])) == ["Delivered"]


CASES = [(feature, scope) for feature in FEATURES for scope in sorted(wanted(feature))]


@pytest.mark.parametrize(("feature", "scope"), CASES)
async def test_each_is_needed_and_named(stub, feature, scope):
    stub.scopes = wanted(feature) - {scope}
    async with opened(stub.url, **FEATURES[feature]) as sink:
        told = await sink.check()
        (outcome,) = await sink.send_batch([sent(feature)])
    named = [line for line in told if scope in line]
    assert named
    assert all(isinstance(line, relay.Notice) == (scope in ONLY_CHECKED) for line in named)
    if scope.endswith((".write", ".send")) or feature == "contacts":
        assert isinstance(outcome, relay.Pause)
        assert scope in outcome.reason


async def test_all_that_are_missing_are_named_at_once(stub):
    stub.scopes = {"crm.schemas.contacts.read"}
    async with opened(stub.url, match=["key", "phone"], activity=EVENT) as sink:
        told = "\n".join(await sink.check())
    for scope in ("contacts.read", "contacts.write", "behavioral_events.send"):
        assert scope in told
    assert stub.records("contacts") == []


async def test_no_scope_at_all_is_told_too(stub):
    stub.scopes = set()
    async with opened(stub.url) as sink:
        told = await sink.check()
    assert any("crm.objects.contacts.write" in line for line in told)
    assert any("crm.schemas.contacts.read" in line for line in told)


@pytest.mark.parametrize(
    ("feature", "scope"),
    [
        ("contacts", "crm.schemas.contacts.write"),
        ("`object` of your own", "crm.schemas.custom.write"),
    ],
)
async def test_setup_needs_the_scope_that_the_readme_gives_for_it(stub, feature, scope):
    assert scope in documented()["`relay setup`"]
    options = FEATURES[feature] | {"columns": ("new_one",)}
    for scopes in ({scope}, set()):
        stub.scopes = wanted(feature) | scopes
        async with opened(stub.url, **options) as sink:
            if scopes:
                assert any("made the property new_one" in line for line in await sink.setup())
                stub.fields["contacts"].pop("new_one", None)
                stub.fields["2-123"].pop("new_one", None)
            else:
                with pytest.raises(relay.Pause, match=re.escape(scope)):
                    await sink.setup()
