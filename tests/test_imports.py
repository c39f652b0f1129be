"""The modules of the relay import each other one way only, and in the open."""

import ast
from graphlib import TopologicalSorter

import pytest


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


def test_imports_have_no_cycle(trees):
    graph = {
        name: {*imported(tree, trees), *loaded(tree, trees)} - {name}
        for name, tree in trees.items()
    }
    tuple(TopologicalSorter(graph).static_order())


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
