"""The modules and the folders of the relay import each other one way only, and in the open."""

import ast
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter

import pytest

import relay

LAYERS = (
    "values",
    "templating",
    "plugin API",
    "config",
    "store",
    "sources",
    "spill",
    "delivery",
    "server",
    "monitoring",
    "alerts",
    "api",
    "service",
    "cli",
)
"""Each imports only from itself and from those before it."""

FOLDERS = {
    **{name: name for name in LAYERS if name not in ("values", "plugin API", "service")},
    "callback": "values",
    "configuration": "service",
    "doctor": "service",
}
"""The layer of each folder of the relay."""

MODULES = {
    "values": (
        *("caching", "clock", "escapes", "event", "fsutil", "loop_lag", "outcome"),
        *(
            "ownership",
            "phone",
            "rate_limit",
            "redact",
            "secret",
            "send_context",
            "senders",
            "signing",
            "slices",
        ),
        *(
            "ssrf",
            "state_directory",
            "suggest",
            "units",
            "urls",
            "validation",
        ),
        "version",
    ),
    "plugin API": ("account", "crm", "quota", "sink", "source"),
    "config": ("preview",),
    "store": ("counters", "retention", "tracing"),
    "monitoring": ("health",),
    "service": (
        *("daemon", "install", "install_image", "preflight", "reexec"),
        *("restore", "service", "systemd"),
    ),
}
"""The layer of each module that lies in no folder."""

DOOR = "relay"
"""The package itself: what plugins use, from whichever layer, imported when it is first used."""


ROLES = {
    "Options": "a plugin's options",
    "ConsentWrite": "one consent to write, of relay.crm and of each CRM sink",
    **dict.fromkeys(
        (
            *("ActivityOptions", "ApiError", "Backfill", "BatchItem", "Client"),
            *("ConsentWriter", "ContactFinder", "Repair", "Writer"),
        ),
        "the part of a CRM sink with that role",
    ),
}
"""The class names that several plugins use, each for one role."""


def modules(root):
    """Each module's dotted name with its syntax tree."""
    for path in sorted((root / "relay").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if not name.startswith("relay.builtin"):
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def imported(tree, names):
    """The relay's own modules that this tree imports, the finest known name for each."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            wanted = [
                full if (full := f"{node.module}.{alias.name}") in names else node.module
                for alias in node.names
            ]
        else:
            continue
        yield from (name for name in wanted if name.split(".")[0] == "relay")


def loaded(tree, names):
    """Those that it imports only when they are asked for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            yield from (each.value for each in node.args if getattr(each, "value", "") in names)


@pytest.fixture(scope="module")
def trees(root):
    return dict(modules(root))


def test_no_relative_imports(trees):
    """One spelling for each module, so that a search finds every use."""
    for name, tree in trees.items():
        for node in ast.walk(tree):
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{name}:{node.lineno}"


def test_a_class_name_has_one_meaning(root, trees):
    """Privacy makes no other name: a _Client beside a Client would be a second meaning."""
    plugins = [ast.parse(path.read_text()) for path in sorted((root / "plugins").rglob("*.py"))]
    names = Counter(
        node.name.lstrip("_")
        for tree in (*trees.values(), *plugins)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    )
    assert {name for name, count in names.items() if count > 1} == {*ROLES}


def test_imports_have_no_cycle(trees):
    graph = {
        name: {*imported(tree, trees), *loaded(tree, trees)} - {name}
        for name, tree in trees.items()
    }
    tuple(TopologicalSorter(graph).static_order())


def layer(name):
    """The number of the layer that a module belongs to."""
    first = name.split(".")[1]
    if first not in FOLDERS:
        (found,) = (key for key, names in MODULES.items() if first in names)
        return LAYERS.index(found)
    return LAYERS.index(FOLDERS[first])


def test_folders_import_from_earlier_layers_only(trees):
    upward = {
        (name, other)
        for name, tree in trees.items()
        for other in imported(tree, trees)
        if DOOR not in (name, other) and layer(other) > layer(name)
    }
    assert upward == set()


def test_each_module_has_one_layer(trees):
    alone = {name.split(".")[1] for name in trees if name != DOOR} - set(FOLDERS)
    listed = [name for names in MODULES.values() for name in names]
    assert sorted(alone) == sorted(listed)


def test_no_own_import_inside_a_function(trees):
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, functions):
                assert not list(imported(node, trees)), f"{name}:{node.lineno}"


def test_commands_stand_on_top(trees):
    """Nothing below knows the command line; only it and the service know how all is put up."""
    for name, tree in trees.items():
        if not name.startswith("relay.cli"):
            assert not [each for each in imported(tree, trees) if each.startswith("relay.cli")]


# the plugin API


def plugin_imports(path):
    """Modules of the relay that a plugin's file imports, as dotted names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module
            exported = (*relay.__all__, "crm")
            yield from (
                f"{node.module}.{each.name}"
                for each in node.names
                if node.module == "relay" and each.name not in exported
            )


def test_sinks_import_the_plugin_api_alone(root):
    for path in sorted((root / "plugins").rglob("*.py")):
        found = {each for each in plugin_imports(path) if each.split(".")[0] == "relay"}
        assert found <= {"relay", "relay.crm"}, path


def test_every_name_of_the_plugin_api_is_there():
    for name in relay.__all__:
        assert getattr(relay, name) is not None
        assert name in dir(relay)


def test_no_name_of_the_plugin_api_is_a_modules(root):
    """An import of the module would put it in place of the name."""
    modules = {path.stem for path in (root / "relay").iterdir()}
    assert modules.isdisjoint(relay.__all__)


def test_a_type_checker_sees_the_same_names(root):
    tree = ast.parse((root / "relay/__init__.py").read_text(encoding="utf-8"))
    block = next(each for each in tree.body if isinstance(each, ast.If))
    homes = {
        each.asname or each.name: f"{node.module}:{each.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for each in node.names
    }
    homes.pop("HookimplMarker")
    assert homes == relay._HOMES
    assert sorted([*homes, "hookimpl"]) == sorted(relay.__all__)


def test_the_package_imports_nothing_that_is_not_asked_for():
    program = "import sys, relay; print([each for each in sys.modules if each[:6] == 'relay.'])"
    program += "; print({'httpx', 'aiohttp', 'pydantic', 'pluggy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.split() == [b"[]", b"set()"]
