"""Steps: how much a template may do. A sender's text may be long, and be gone through in a loop.

A step is about a microsecond: a turn of a loop, an item that a filter looks at, a filter called,
and so many characters of text. All templates of one record share their steps. They are counted
and not timed, so that a template does the same on a slow machine as on a fast one.
"""

from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError

MOST_STEPS = 30_000
CHARACTERS = 250
"""Characters that are copied, compared or searched in one step."""
COUNTED, WEIGHED = "_counted", "_weighed"


class NoStepsLeft(SecurityError):
    """A template that does too much."""


class Steps:
    """What is left of them."""

    __slots__ = ("left",)

    def __init__(self, left: int = MOST_STEPS) -> None:
        self.left = left

    def take(self, number: int = 1) -> None:
        """Raises NoStepsLeft where there are no more."""
        self.left -= number
        if self.left < 0:
            raise NoStepsLeft


_current: ContextVar[Steps] = ContextVar("steps")


def begin(steps: Steps) -> None:
    """What is evaluated from now on takes from these."""
    _current.set(steps)


def take(number: int = 1) -> None:
    """Take so many. Outside of an evaluation, as when a template is compiled, they suffice once."""
    steps = _current.get(None)
    (Steps() if steps is None else steps).take(number)


def counted(items: Iterable[Any]) -> Iterator[Any]:
    """The items, each of which takes a step."""
    for item in items:
        take()
        yield item


def weighed(value: Any) -> Any:
    """The value, which takes steps where it is a long text."""
    if isinstance(value, str):
        take(1 + len(value) // CHARACTERS)
    return value


FILTERS = {COUNTED: counted, WEIGHED: weighed}


def instrument(tree: nodes.Template) -> None:
    """Have each turn of each loop counted, and what is done with texts in it.

    Outside of loops an operator works once. So it is the template's author alone who says how
    often, and nothing is counted.
    """
    for loop in list(tree.find_all(nodes.For)):
        for node in list(_inside(loop)):
            _weigh_operands(node)
        assert isinstance(loop.iter, nodes.Expr)
        loop.iter = _filtered(loop.iter, COUNTED)


def _inside(loop: nodes.For) -> Iterator[nodes.Node]:
    for part in (loop.test, *loop.body, *loop.else_):
        if part is not None:
            yield part
            yield from part.find_all(nodes.Node)


def _weigh_operands(node: nodes.Node) -> None:
    match node:
        case nodes.Output() | nodes.Concat():
            node.nodes = [_weighed(part) for part in node.nodes]
        case nodes.Compare():
            node.expr = _weighed(node.expr)
            for operand in node.ops:
                operand.expr = _weighed(operand.expr)
        case nodes.Add():
            node.left, node.right = _weighed(node.left), _weighed(node.right)
        case nodes.Getitem(arg=nodes.Slice()):
            node.node = _weighed(node.node)


def _weighed(node: nodes.Expr) -> nodes.Expr:
    if isinstance(node, nodes.Literal) or getattr(node, "name", "") == WEIGHED:
        return node
    return _filtered(node, WEIGHED)


def _filtered(node: nodes.Expr, name: str) -> nodes.Expr:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)
