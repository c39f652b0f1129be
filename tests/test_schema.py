"""The JSON Schema of relay.yaml, and what it says of files that load and that do not."""

import json

import jsonschema
import pytest
import yaml

from relay.config import plugins, schema


@pytest.fixture(scope="module")
def document():
    return schema.document(plugins.load([]))


@pytest.fixture(scope="module")
def accepts(document):
    """Whether an independent validator takes this YAML."""
    validator = jsonschema.Draft202012Validator(document)

    def accepts(text):
        return validator.is_valid(yaml.safe_load(text))

    return accepts


def test_it_is_a_schema(document):
    jsonschema.Draft202012Validator.check_schema(document)


def test_the_one_in_the_repository_is_fresh(root):
    """Otherwise: relay schema > config/relay.schema.json."""
    assert (root / "config/relay.schema.json").read_text() == schema.text(plugins.load([]))


@pytest.mark.parametrize("path", ["relay.yaml", "config/relay.full.yaml"])
def test_our_own_files_hold_to_it(accepts, root, path):
    assert accepts((root / path).read_text())


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "sources: {a: {}}",
        "sinks: {a: {plugin: csv, options: {path: x}}}",
        "sinks: {a: {plugin: of-my-own, options: {anything: [1]}}}",
        "sinks: {a: {plugin: csv, options: {path: x}, when: true, map: {A: [1, null]}}}",
        "sinks: {a: {plugin: csv, options: {path: x}, concurrency: '${N}', enabled: '${E:-true}'}}",
        "sinks: {a: {plugin: csv, options: {path: x}, timeout: '${T}', order: '${O}'}}",
        "server: {listen: '[::1]:80', tls: {cert: a, key: b}}",
    ],
)
def test_what_it_takes(accepts, text):
    assert accepts(text)


@pytest.mark.parametrize(
    "text",
    [
        "servr: {}",
        "server: {listen: 8080}",
        "sources: {a b: {}}",
        "sources: {a: {kind: pol}}",
        "sinks: {a: {}}",
        "sinks: {a: {plugin: csv}}",
        "sinks: {a: {plugin: csv, options: {pth: x}}}",
        "sinks: {a: {plugin: csv, options: {path: x, mode: exat}}}",
        "sinks: {a: {plugin: csv, options: {path: x, rotate: {size: 64KB}}}}",
        "sinks: {a: {plugin: csv, options: {path: x}, timeout: 30}}",
        "sinks: {a: {plugin: csv, options: {path: x}, concurrency: 0}}",
        "sinks: {a: {plugin: csv, options: {path: x}, order: any}}",
        "sinks: {a: {plugin: webhook, options: {}}}",
    ],
)
def test_what_it_refuses(accepts, text):
    assert not accepts(text)


def test_defaults_are_written_as_the_file_writes_them(document):
    retry = document["$defs"]["RetrySettings"]["properties"]
    assert (retry["initial"]["default"], retry["window"]["default"]) == ("5s", "4d")
    assert document["properties"]["timezone"]["default"] == "UTC"


def test_every_option_has_a_description(document):
    """It is the docstring below the field."""
    groups = {"relay.yaml": document, **document["$defs"]}
    for name, group in groups.items():
        for option, described in group.get("properties", {}).items():
            assert described.get("description"), f"{name}: {option}"


def test_options_of_other_plugins_are_in_it(tmp_path):
    (tmp_path / "ntfy.py").write_text(
        "import relay\n"
        "class Inner(relay.Options):\n    title: int\n"
        "class Options(relay.Options):\n    inner: Inner\n    'What is inside.'\n"
        "class Ntfy(relay.Sink):\n    Options = Options\n    async def send(self, d): ...\n"
        "@relay.hookimpl\ndef register_sinks(register):\n    register('ntfy', Ntfy)\n"
    )
    document = schema.document(plugins.load([tmp_path]))
    validator = jsonschema.Draft202012Validator(document)
    sink = {"plugin": "ntfy", "options": {"inner": {"title": 1}}}
    assert validator.is_valid({"sinks": {"a": sink}})
    assert (
        document["$defs"]["ntfy.options"]["properties"]["inner"]["description"] == "What is inside."
    )
    sink["options"] = {"inner": {"titel": 1}}
    assert not validator.is_valid({"sinks": {"a": sink}})


def test_options_that_have_no_schema_may_be_anything(tmp_path):
    (tmp_path / "odd.py").write_text(
        "import relay, typing\n"
        "class Options(relay.Options):\n    call: typing.Callable[[], int]\n"
        "class Odd(relay.Sink):\n    Options = Options\n    async def send(self, d): ...\n"
        "@relay.hookimpl\ndef register_sinks(register):\n    register('odd', Odd)\n"
    )
    document = schema.document(plugins.load([tmp_path]))
    assert document["$defs"]["odd.options"] == {"type": "object"}


def test_it_is_the_same_each_time():
    text = schema.text(plugins.load([]))
    assert text == schema.text(plugins.load([]))
    assert json.loads(text)["title"] == "relay.yaml"
