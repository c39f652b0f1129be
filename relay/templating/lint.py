"""Slips: what compiles, and would only fail, or never match, when an event comes."""

from collections.abc import Iterable

from jinja2 import nodes
from jinja2.meta import find_undeclared_variables

from relay.suggest import nearest
from relay.templating.sandbox import GLOBALS, Sandbox

VARIABLES = ("id", "type", "time", "source", "subject", "test", "data", "opted_out")
DATA = (
    *("mobile", "country", "short_code", "keyword", "carrier", "message", "message_id"),
    *("reply", "label", "consent", "fields", "parameters"),
)
NEAR_ENOUGH = 0.75
"""A name this near to a known one is a slip; any other is merely undefined."""
UNAVAILABLE: dict[type[nodes.Node], str] = {
    nodes.Include: "include",
    nodes.Import: "import",
    nodes.FromImport: "from … import",
    nodes.Extends: "extends",
    nodes.Block: "block",
    nodes.Macro: "macro",
    nodes.CallBlock: "call",
    nodes.ScopedEvalContextModifier: "autoescape",
}


class Slip(Exception):
    """The message says what there is none of, and what was probably meant."""


def check(tree: nodes.Template, sandbox: Sandbox) -> set[str]:
    """Raise Slip for what cannot be meant. Returns the variables that the tree uses."""
    tree.set_environment(sandbox)
    for kind, tag in UNAVAILABLE.items():
        if tree.find(kind):
            raise Slip(f"does not compile: {{% {tag} %}} is not available here")
    for used in tree.find_all(nodes.Filter):
        check_name("filter", used.name, sandbox.filters)
    for tested in tree.find_all(nodes.Test):
        check_name("test", tested.name, sandbox.tests)
    for attribute in tree.find_all(nodes.Getattr):
        check_attribute(attribute)
    names = find_undeclared_variables(tree)
    for name in sorted(names - set(VARIABLES)):
        check_variable(name)
    return names


def check_name(kind: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        match = nearest(name, known)
        hint = f'; did you mean "{match}"?' if match else ""
        raise Slip(f'does not compile: there is no {kind} "{name}"{hint}')


def check_variable(name: str) -> None:
    if name in DATA:
        raise Slip(f'there is no variable "{name}"; did you mean "data.{name}"?')
    if name not in GLOBALS and (match := nearest(name, VARIABLES, NEAR_ENOUGH)):
        raise Slip(f'there is no variable "{name}"; did you mean "{match}"?')


def check_attribute(node: nodes.Getattr) -> None:
    if not (isinstance(node.node, nodes.Name) and node.node.name == "data"):
        return
    if node.attr not in DATA and (match := nearest(node.attr, DATA, NEAR_ENOUGH)):
        raise Slip(f'there is no "data.{node.attr}"; did you mean "data.{match}"?')
