"""Plugins: files, folders and installed packages through one door, errors with their line."""

import sys
from textwrap import dedent

import pytest

from relay.config.plugins import builtin_folder, load

SINK = """
import relay


class Echo(relay.Sink):
    async def send(self, delivery):
        return None


@relay.hookimpl
def register_sinks(register):
    register("{name}", Echo)
"""


@pytest.fixture
def folder(tmp_path):
    """A folder for plugins."""
    (tmp_path / "plugins").mkdir()
    return tmp_path / "plugins"


def write(path, text, **names):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text).format(**names) if names else dedent(text))
    return path


def errors_of(folder):
    return [str(error).replace(f"{folder}/", "") for error in load([folder]).errors]


def test_the_built_in_sinks_are_there_without_any_folder(plugins_folder):
    registry = load([])
    assert not registry.errors
    assert set(registry.sinks) == {"csv", "hubspot", "salesforce", "webhook"}
    assert builtin_folder() == plugins_folder


def test_the_built_in_folder_given_again_loads_once(plugins_folder, folder):
    (folder.parent / "link").symlink_to(plugins_folder)
    registry = load([plugins_folder, folder.parent / "link", plugins_folder / "../plugins"])
    assert not registry.errors
    assert set(registry.sinks) == {"csv", "hubspot", "salesforce", "webhook"}


def test_a_file_and_a_package_folder(folder):
    file = write(folder / "echo.py", SINK, name="echo")
    package = write(folder / "many/__init__.py", "from .inner import *" + SINK, name="many")
    write(folder / "many/inner.py", "VALUE = 1\n")
    registry = load([folder])
    assert not registry.errors
    assert registry.sinks["echo"].origin == str(file)
    assert registry.sinks["many"].origin == str(package)


def test_helpers_hidden_files_and_other_things_are_no_plugins(folder):
    for name in ("_helper.py", ".hidden.py", "__pycache__/x.py", "data/x.txt", "notes.txt"):
        write(folder / name, "raise SystemExit")
    assert not load([folder]).errors


def test_a_folder_that_is_not_there_has_no_plugins(folder):
    assert not load([folder / "gone"]).errors


def test_dataclasses_with_postponed_annotations_work(folder):
    """They look their module up in sys.modules."""
    text = "from __future__ import annotations\nimport dataclasses\n"
    text += "@dataclasses.dataclass\nclass Point:\n    x: int\n" + SINK.replace("{name}", "point")
    write(folder / "point.py", text)
    assert "point" in load([folder]).sinks


def test_a_plugin_shadows_no_module(folder):
    """Its folder is not on sys.path, and its module has a name of its own."""
    write(folder / "http.py", "import http.client\nimport json\n" + SINK.replace("{name}", "http"))
    write(folder / "json.py", SINK, name="json")
    path, http, json = list(sys.path), sys.modules.get("http"), sys.modules.get("json")
    registry = load([folder])
    assert not registry.errors
    assert {"http", "json"} < set(registry.sinks)
    assert (sys.path, sys.modules.get("http"), sys.modules.get("json")) == (path, http, json)


def test_files_load_in_the_order_of_their_names(folder):
    for name in ("b", "c", "a"):
        write(folder / f"{name}.py", SINK, name=name)
    names = list(load([folder]).sinks)
    assert [name for name in names if len(name) == 1] == ["a", "b", "c"]


def test_a_later_folder_replaces_a_plugin_of_the_same_file_name(folder):
    write(folder / "csv.py", SINK, name="csv")
    registry = load([folder])
    assert not registry.errors
    assert registry.sinks["csv"].origin == str(folder / "csv.py")


def test_one_name_from_two_files_is_an_error(folder, plugins_folder):
    write(folder / "sheet.py", SINK, name="csv")
    (error,) = load([folder]).errors
    first = plugins_folder / "csv/__init__.py"
    assert error.message == f'the name "csv" is already registered by {first}'
    assert (error.path, error.line) == (str(folder / "sheet.py"), 12)


def test_a_file_and_a_folder_of_one_name_side_by_side(folder):
    write(folder / "a.py", SINK, name="a")
    write(folder / "a/__init__.py", SINK, name="b")
    assert errors_of(folder) == ["a.py: has the name of __init__.py beside it"]


def test_a_broken_plugin_hides_no_other(folder):
    write(folder / "a.py", "1 / 0")
    write(folder / "b.py", SINK, name="b")
    write(folder / "c.py", "import nothing_of_that_name")
    registry = load([folder])
    assert "b" in registry.sinks
    assert len(registry.errors) == 2


def test_loading_again_sees_the_file_as_it_is_now(folder):
    write(folder / "a.py", "VALUE = 1" + SINK, name="first")
    load([folder])
    write(folder / "a.py", "VALUE = 2\n\n" + SINK, name="second")
    registry = load([folder])
    assert "second" in registry.sinks
    assert "first" not in registry.sinks


BROKEN = [
    ("import nothing_at_all", "a.py:1: ModuleNotFoundError: No module named 'nothing_at_all'"),
    ("x = 1\n\ny = x / 0", "a.py:3: ZeroDivisionError: division by zero"),
    ("x = 1\ny = (", "a.py:2: SyntaxError: '(' was never closed"),
    ("import json\njson.loads('[')", "a.py:2: JSONDecodeError: Expecting value: line 1 column 2"),
    ("raise SystemExit(3)", "a.py:1: ends the process when imported"),
    ("x = 1\nraise BaseException(x)", "a.py:2: BaseException: 1"),
    ("x = 1", "a.py: has no hook; write: @relay.hookimpl"),
    (
        "import relay\n\n@relay.hookimpl\ndef register_sink(register): ...",
        'a.py:3: there is no hook "register_sink"; did you mean "register_sinks"?',
    ),
    (
        "import relay\n\n@relay.hookimpl\ndef xyz(): ...",
        'a.py:3: there is no hook "xyz"; write: @relay.hookimpl',
    ),
    (
        "import relay\n\n@relay.hookimpl\nasync def register_sinks(register): ...",
        "a.py:3: register_sinks should be a plain def",
    ),
    (
        "import relay\n\n@relay.hookimpl\ndef register_sinks(add): ...",
        "a.py:3: register_sinks should have one parameter, named register",
    ),
]
REFUSED = [
    ("5, relay.Sink", "the first argument of register should be a name"),
    ("'a b', relay.Sink", "the first argument of register should be a name"),
    ("'a', 5", "the second argument of register should be a class that is a relay.Sink"),
    (
        "'a', relay.Options",
        "the second argument of register should be a class that is a relay.Sink",
    ),
    ("'a', relay.Sink", "Sink should override send or send_batch"),
    ("'a', sink(x=1)", "Mine should override send or send_batch"),
    ("'a', sink(send=lambda self, d: 1)", "Mine.send should be an async def"),
    ("'a', sink(send=good, open=lambda self: 1)", "Mine.open should be an async def"),
    ("'a', sink(send=none)", "Mine.send should be: async def send(self, delivery)"),
    ("'a', sink(send=good, open=good)", "Mine.open should be: async def open(self)"),
    (
        "'a', sink(send=good, setup=none)",
        "Mine.setup should be: async def setup(self, *, backfill, progress)",
    ),
    (
        "'a', sink(send=good, Options=dict)",
        "Mine.Options should be a class that is a relay.Options",
    ),
    (
        "'a', sink(send=good, Options=type('', (relay.Options,), {'__annotations__': {'x': 'Y'}}))",
        'Mine.Options names the type "Y", which is not there',
    ),
    ("'a', sink(send=good, max_batch=0)", "Mine.max_batch should be a whole number from 1"),
    ("'a', sink(send=good, max_batch=2)", "Mine.max_batch is above 1, so it should override"),
    ("'a'", "TypeError: "),
]
CALL = """\
import relay
async def good(self, deliveries): ...
async def none(self): ...
def sink(**parts):
    return type("Mine", (relay.Sink,), parts)
@relay.hookimpl
def register_sinks(register):
    register({arguments})
"""


SENDING = """
import relay

class Mine(relay.Sink):
    {send}

@relay.hookimpl
def register_sinks(register):
    register("mine", Mine)
"""


@pytest.mark.parametrize(("text", "message"), BROKEN)
def test_what_does_not_load_is_told_with_its_line(folder, text, message):
    write(folder / "a.py", text)
    (error,) = errors_of(folder)
    assert error.startswith(message)


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_is_no_sink_is_told_with_the_line_of_register(folder, arguments, message):
    write(folder / "a.py", CALL, arguments=arguments)
    (error,) = errors_of(folder)
    assert error.startswith(f"a.py:8: {message}")


@pytest.mark.parametrize(
    "send",
    [
        "async def send(self, one, more=1): ...",
        "async def send(self, *all): ...",
        "@staticmethod\n    async def send(delivery): ...",
        "@classmethod\n    async def send(cls, delivery): ...",
    ],
)
def test_a_send_may_be_written_in_any_way_in_which_it_can_be_called(folder, send):
    write(folder / "a.py", SENDING, send=send)
    assert errors_of(folder) == []


def test_the_line_of_a_package_is_that_of_the_file_inside(folder):
    write(folder / "a/__init__.py", "from . import inner")
    write(folder / "a/inner.py", "x = 1\nx.y")
    assert errors_of(folder) == ["a/inner.py:2: AttributeError: 'int' object has no attribute 'y'"]


def install(site, module, name):
    """A package with an entry point, as pip would leave it."""
    write(site / f"{module}.py", SINK, name=name)
    info = site / f"{module}-1.0.dist-info"
    write(info / "METADATA", f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    write(info / "entry_points.txt", f"[relay]\n{name} = {module}\n")


def test_an_installed_package_registers_by_its_entry_point(tmp_path, monkeypatch):
    install(tmp_path, "relay_echo_package", "echo")
    monkeypatch.syspath_prepend(tmp_path)
    registry = load([])
    assert not registry.errors
    assert registry.sinks["echo"].origin == "relay_echo_package"


def test_an_installed_package_that_does_not_import(tmp_path, monkeypatch):
    install(tmp_path, "relay_broken_package", "broken")
    (tmp_path / "relay_broken_package.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    (error,) = load([]).errors
    path = tmp_path / "relay_broken_package.py"
    assert str(error) == f"{path}:1: ZeroDivisionError: division by zero"


def test_an_installed_package_whose_module_is_gone(tmp_path, monkeypatch):
    install(tmp_path, "relay_gone_package", "gone")
    (tmp_path / "relay_gone_package.py").unlink()
    monkeypatch.syspath_prepend(tmp_path)
    (error,) = load([]).errors
    assert str(error).startswith("relay_gone_package: ModuleNotFoundError: No module named")


SOURCE = """
import relay


class Mine(relay.Source):
    def parse(self, callback):
        return self.event(callback, type="org.example.note", data={{}})


@relay.hookimpl
def register_sources(register):
    register("{name}", Mine)
"""


def test_the_sumotext_source_is_there_without_any_folder(plugins_folder):
    (source,) = load([]).sources.values()
    assert (source.name, source.origin) == ("sumotext", str(plugins_folder / "sumotext.py"))


def test_a_plugin_may_bring_a_sink_and_a_source_of_one_name(folder):
    write(folder / "both.py", SINK.replace("{name}", "both") + SOURCE.format(name="both"))
    registry = load([folder])
    assert not registry.errors
    assert "both" in registry.sinks
    assert "both" in registry.sources


def test_a_sink_in_a_file_named_sumotext_leaves_the_built_in_source_in_place(
    folder, plugins_folder
):
    """Before the source was a plugin, such a file replaced nothing."""
    write(folder / "sumotext.py", SINK, name="sumotext")
    registry = load([folder])
    assert not registry.errors
    assert registry.sinks["sumotext"].origin == str(folder / "sumotext.py")
    assert registry.sources["sumotext"].origin == str(plugins_folder / "sumotext.py")


def test_a_source_in_a_file_named_sumotext_replaces_the_built_in_one(folder):
    write(folder / "sumotext.py", SOURCE, name="sumotext")
    registry = load([folder])
    assert not registry.errors
    assert registry.sources["sumotext"].origin == str(folder / "sumotext.py")


def test_another_file_cannot_take_the_name_of_the_built_in_source(folder, plugins_folder):
    write(folder / "other.py", SOURCE, name="sumotext")
    (error,) = load([folder]).errors
    first = plugins_folder / "sumotext.py"
    assert error.message == f'the name "sumotext" is already registered by {first}'


UNUSABLE_SOURCES = [
    ("relay.Sink", "the second argument of register should be a class that is a relay.Source"),
    ("relay.Source", "Source should override parse"),
    ("source(x=1)", "Mine should override parse"),
    ("source(parse=later)", "Mine.parse should be a plain def: nothing awaits it"),
    ("source(parse=none)", "Mine.parse should be: def parse(self, callback)"),
    ("source(parse=good, Options=dict)", "Mine.Options should be a class that is a relay.Options"),
    ("source(parse=good, kinds='note')", "Mine.kinds should be a tuple of texts"),
    ("source(parse=good, authenticates=True)", "Mine should override verify, as authenticates is"),
]


@pytest.mark.parametrize(("call", "message"), UNUSABLE_SOURCES)
def test_what_would_fail_at_the_first_callback_is_refused(folder, call, message):
    text = f"""\
import relay
def good(self, callback): ...
def none(self): ...
async def later(self, callback): ...
def source(**parts):
    return type("Mine", (relay.Source,), parts)
@relay.hookimpl
def register_sources(register):
    register("mine", {call})
"""
    write(folder / "a.py", text)
    (error,) = load([folder]).errors
    assert error.message.startswith(message)
