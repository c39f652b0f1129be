"""Limits of a template: how many steps it may take, and how large a text it may make.

A sender's text may be long and be gone through in a loop; it may be what is repeated or searched,
the width, the count, or the format itself. A step is about a microsecond: a turn of a loop, an
item that a filter looks at, a filter called, and so many characters of text. All templates of one
record share their steps. Steps are counted and not timed, so that a template does the same on a
slow machine as on a fast one. What is too large raises SecurityError before any of it is made.
"""

import functools
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple

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


MAX_TEXT = 1024 * 1024
MAX_ITEMS = 10_000
"""What `range`, `*`, `batch` and `slice` may make at most."""
MOST_DIGITS = 100
"""Of a precision: ten to the power of it is reckoned with."""
MOST_INDENT = 100
MOST_WIDTH = 8
"""Digits of a width in a format."""
CODINGS = {
    *("ascii", "cp1252", "iso-8859-1", "latin-1", "latin1", "utf-16", "utf-8", "utf8"),
    "windows-1252",
}
"""Others may take quadratic time, and Python keeps each name that it is asked for."""

SLOW: dict[str, float] = {
    "digits": 12,
    "first_name": 30,
    "last_name": 30,
    "national": 12,
    "pprint": 1,
    "striptags": 6,
    "title": 5,
    "tojson": 50,
    "urlencode": 10,
    "urlize": 0.5,
    "wordcount": 8,
    "wordwrap": 0.3,
    "xmlattr": 50,
}
"""Characters a step, of the filters that are slower than a copy."""
ON_THE_SURFACE = {
    *("attr", "count", "d", "default", "first", "items", "last", "length", "random", "reverse"),
}
"""Filters that take a list as it is; others make a text of it, and go through all that it holds."""
BY_ITEM = {
    *("batch", "groupby", "join", "list", "map", "max", "min", "reject", "rejectattr"),
    *("select", "selectattr", "slice", "sort", "sum", "unique"),
}
"""Filters that look at each item of a sequence."""
LISTED = {"join", "sum"}
"""Of those, the ones that need all items in advance."""
AN_ITEM = 2
A_FIELD = 3
"""Steps for an item that a filter looks at, and for a field of `format`."""
PRINTF = re.compile(r"%(?:\([^()%]*\))?[#0 +-]*(\d+|\*)?(?:\.(\d+|\*))?")
WIDTH = re.compile(r"\d+")


class TooLong(SecurityError):
    """A text that would have more than MAX_TEXT characters."""


class FilterCall(NamedTuple):
    """A call of a filter or a method on `value`."""

    value: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def get(self, position: int, name: str, default: Any = None) -> Any:
        """An argument, by its position behind the value or by its name."""
        return self.args[position] if position < len(self.args) else self.kwargs.get(name, default)

    def number(self, position: int, name: str, default: int = 0) -> int:
        """An argument that should be a number. What is none fails by itself."""
        found = self.get(position, name, default)
        return found if isinstance(found, int) else 0


def length(value: Any) -> int:
    """Characters of the text in it, at any depth. Each item takes a step."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        take(len(value))
        return sum(length(key) + length(item) + 4 for key, item in value.items())
    if isinstance(value, list | tuple):
        take(len(value))
        return sum(length(item) + 2 for item in value)
    return 20


def _surface(value: Any) -> int:
    """Characters of a text, or items; without a look at those."""
    return len(value) if isinstance(value, str | bytes | list | tuple | dict) else 0


def check(number: int, most: int) -> None:
    """Raise SecurityError for a number that is too large."""
    if abs(number) > most:
        raise SecurityError


def check_length(characters: int) -> None:
    """Raise TooLong for a text that would have so many."""
    if abs(characters) > MAX_TEXT:
        raise TooLong


def bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of Jinja2's or of ours with its bounds."""
    position = 1 if hasattr(function, "jinja_pass_arg") else 0
    a_step = SLOW.get(name, CHARACTERS)
    look, by_item = FILTER_SIZES.get(name), name in BY_ITEM
    size = _surface if by_item or name in ON_THE_SURFACE else length

    @functools.wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        before, value, rest = args[:position], args[position], args[position + 1 :]
        take(1 + int(size(value) / a_step) + sum(map(_surface, rest)) // CHARACTERS)
        if by_item and hasattr(value, "__iter__"):
            value = _looked_at(value, listed=name in LISTED)
        if look is not None:
            look(FilterCall(value, rest, kwargs))
        return function(*before, value, *rest, **kwargs)

    return bounded


def bounded_test(function: Any) -> Callable[..., Any]:
    """A test of Jinja2's: `is in`, say, searches a text."""
    position = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        take(1 + sum(map(_surface, args[position:])) // CHARACTERS)
        return function(*args, **kwargs)

    return bounded


def bounded_arguments(method: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The arguments for a method of a text, a number or the like, once they have been looked at."""
    owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
    a_step = SLOW.get(name, CHARACTERS)
    take(1 + int((_surface(owner) + sum(map(_surface, args))) / a_step))
    if isinstance(owner, bytes) and name not in BYTES_METHODS:
        raise SecurityError
    look = METHOD_SIZES.get(name)
    if look is None or not isinstance(owner, str | bytes | int):
        return args
    if name == "join" and args and hasattr(args[0], "__iter__"):
        args = (list(counted(args[0])), *args[1:])
    look(FilterCall(owner, args, kwargs))
    return args


def check_printf(text: str, values: Any) -> None:
    """Raise SecurityError for `text % values` that would become too large."""
    take(text.count("%"))
    found = PRINTF.findall(text)
    numbers = [each for pair in found for each in pair if each]
    check(max(map(len, numbers), default=0), MOST_WIDTH)
    widths = [0, *(int(each) for each in numbers if each != "*")]
    if "*" in numbers:
        widths += _numbers(values if isinstance(values, tuple) else (values,))
    check_length(len(text) + len(found) * (max(map(abs, widths)) + length(values)))


def check_format(text: str, args: Any, kwargs: Any) -> None:
    """Raise SecurityError for `text.format(…)` that would become too large."""
    values = [*args, *kwargs.values()]
    take(A_FIELD * text.count("{"))
    specs = [spec for _, _, spec, _ in string.Formatter().parse(text) if spec is not None]
    written = [each for spec in specs for each in WIDTH.findall(spec)]
    check(max(map(len, written), default=0), MOST_WIDTH)
    widths = [0, *map(int, written)]
    if any("{" in spec for spec in specs):
        widths += _numbers(values)
    check_length(len(text) + len(specs) * (max(map(abs, widths)) + length(values)))


def _numbers(values: Iterable[Any]) -> list[int]:
    return [each for each in values if isinstance(each, int)]


def _looked_at(items: Iterable[Any], *, listed: bool) -> Any:
    """The items, each of which takes steps."""
    if isinstance(items, str | list | tuple | dict):
        take(AN_ITEM * len(items))
        return items
    return list(counted(items)) if listed else counted(items)


def _padded(call: FilterCall) -> None:
    check_length(call.number(0, "width"))


def _indented(call: FilterCall) -> None:
    width = call.get(0, "width", 4)
    lines = str(call.value).count("\n") + 1
    check_length(lines * (width if isinstance(width, int) else length(width)))


def _wrapped(call: FilterCall) -> None:
    check_length(len(str(call.value)) * length(call.get(2, "wrapstring") or "\n"))


def _replaced(call: FilterCall) -> None:
    text, old, new = str(call.value), call.get(0, "old"), call.get(1, "new")
    check_length(len(text) + text.count(str(old)) * length(str(new)))


def _trimmed(call: FilterCall) -> None:
    take(len(call.value) * length(call.get(0, "chars") or "") // 10_000)


def _joined(call: FilterCall) -> None:
    check_length(length(call.value) + _surface(call.value) * length(call.get(0, "d", "")))


def _glued(call: FilterCall) -> None:
    items = call.get(0, "iterable", ())
    check_length(length(items) + _surface(items) * len(call.value))


def _grouped(call: FilterCall) -> None:
    check(call.number(0, "linecount"), MAX_ITEMS)
    check(call.number(0, "slices"), MAX_ITEMS)


def _rounded(call: FilterCall) -> None:
    check(call.number(0, "precision"), MOST_DIGITS)


def _indented_json(call: FilterCall) -> None:
    check(call.number(0, "indent"), MOST_INDENT)


def _summed(call: FilterCall) -> None:
    """Lists are put together one by one, each time with all before."""
    start = call.get(1, "start", 0)
    if not isinstance(start, int | float) and hasattr(call.value, "__len__"):
        take(len(call.value) ** 2 // 100)


def _printed(call: FilterCall) -> None:
    check_printf(str(call.value), call.kwargs or call.args)


def _tabbed(call: FilterCall) -> None:
    check_length(call.value.count("\t") * call.number(0, "tabsize", 8))


def _translated(call: FilterCall) -> None:
    table = call.get(0, "table", {})
    values = [each for each in table.values() if isinstance(each, str)] if table else []
    check_length(len(call.value) * max(map(len, values), default=1))


def _coded(call: FilterCall) -> None:
    coding = str(call.get(0, "encoding", "utf-8"))
    if coding.lower().replace("_", "-") not in CODINGS:
        raise SecurityError


def _in_bytes(call: FilterCall) -> None:
    check(call.number(0, "length", 1), MOST_DIGITS)


Look = Callable[[FilterCall], None]
FILTER_SIZES: dict[str, Look] = {
    "batch": _grouped,
    "center": _padded,
    "format": _printed,
    "indent": _indented,
    "join": _joined,
    "replace": _replaced,
    "round": _rounded,
    "slice": _grouped,
    "sum": _summed,
    "tojson": _indented_json,
    "trim": _trimmed,
    "wordwrap": _wrapped,
}
METHOD_SIZES: dict[str, Look] = {
    "center": _padded,
    "decode": _coded,
    "encode": _coded,
    "expandtabs": _tabbed,
    "join": _glued,
    "ljust": _padded,
    "lstrip": _trimmed,
    "replace": _replaced,
    "rjust": _padded,
    "rstrip": _trimmed,
    "strip": _trimmed,
    "to_bytes": _in_bytes,
    "translate": _translated,
    "zfill": _padded,
}
BYTES_METHODS = {"count", "decode", "endswith", "find", "hex", "index", "startswith"}
