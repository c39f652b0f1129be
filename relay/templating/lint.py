"""Static analysis of templates: errors that compile, and the texts that a template can give.

Such an error would only fail, or never match, when an event comes.
"""

from collections.abc import Iterable, Iterator

from jinja2 import nodes
from jinja2.meta import find_undeclared_variables

from relay.suggest import nearest
from relay.templating.environment import GLOBALS, Sandbox

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


class LintError(Exception):
    """The message says what there is none of, and what was probably meant."""


def check(tree: nodes.Template, sandbox: Sandbox, *, other_data: bool = False) -> set[str]:
    """Raise LintError for what cannot be meant. Returns the variables that the tree uses.

    With `other_data`, the names in `data` are not checked: they may be another vendor's.
    """
    tree.set_environment(sandbox)
    for kind, tag in UNAVAILABLE.items():
        if tree.find(kind):
            raise LintError(f"does not compile: {{% {tag} %}} is not available here")
    for used in tree.find_all(nodes.Filter):
        check_name("filter", used.name, sandbox.filters)
    for tested in tree.find_all(nodes.Test):
        check_name("test", tested.name, sandbox.tests)
    for attribute in () if other_data else tree.find_all(nodes.Getattr):
        check_attribute(attribute)
    names = find_undeclared_variables(tree)
    for name in sorted(names - set(VARIABLES)):
        check_variable(name)
    return names


def check_name(kind: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        match = nearest(name, known)
        hint = f'; did you mean "{match}"?' if match else ""
        raise LintError(f'does not compile: there is no {kind} "{name}"{hint}')


def check_variable(name: str) -> None:
    if name in DATA:
        raise LintError(f'there is no variable "{name}"; did you mean "data.{name}"?')
    if name not in GLOBALS and (match := nearest(name, VARIABLES, NEAR_ENOUGH)):
        raise LintError(f'there is no variable "{name}"; did you mean "{match}"?')


def check_attribute(node: nodes.Getattr) -> None:
    if not (isinstance(node.node, nodes.Name) and node.node.name == "data"):
        return
    if node.attr not in DATA and (match := nearest(node.attr, DATA, NEAR_ENOUGH)):
        raise LintError(f'there is no "data.{node.attr}"; did you mean "data.{match}"?')


def choices(tree: nodes.Template) -> frozenset[str]:
    """Those of all its branches. A text that is put together from several parts is none."""
    return frozenset(_of_body(tree.body))


def _of_body(body: Iterable[nodes.Node]) -> Iterator[str]:
    for node in body:
        match node:
            case nodes.Output():
                yield from _of_output(node.nodes)
            case nodes.If():
                yield from _of_body([*node.body, *node.elif_, *node.else_])


def _of_output(parts: Iterable[nodes.Expr]) -> Iterator[str]:
    told = [part for part in parts if not _is_space(part)]
    if len(told) == 1:
        yield from _of_expression(told[0])


def _is_space(node: nodes.Node) -> bool:
    return isinstance(node, nodes.TemplateData) and node.data.isspace()


def _of_expression(node: nodes.Node | None) -> Iterator[str]:
    match node:
        case nodes.TemplateData():
            yield node.data.strip()
        case nodes.Const() if node.value is not None:
            yield str(node.value)
        case nodes.CondExpr():
            yield from _of_expression(node.expr1)
            yield from _of_expression(node.expr2)
        case nodes.Or() | nodes.And():
            yield from _of_expression(node.left)
            yield from _of_expression(node.right)
        case nodes.Getitem():
            yield from _of_dict(node.node)
        case nodes.Filter(name="default" | "d"):
            yield from _of_expression(node.node)
            for each in node.args[:1]:
                yield from _of_expression(each)
        case nodes.Call(node=nodes.Getattr(attr="get", node=known)):
            yield from _of_dict(known)
            for each in node.args[1:2]:
                yield from _of_expression(each)


def _of_dict(node: nodes.Node) -> Iterator[str]:
    if isinstance(node, nodes.Dict):
        for pair in node.items:
            yield from _of_expression(pair.value)
