"""The Jinja2 environment of all expressions and templates: a sandbox with filters of our own.

Nothing in it is unsafe or endless, and there is no loader, macro or block. Null counts as absent:
a text filter passes it on instead of making it the word `None`. The relay's own filters give null
for a null or blank value; of a list, which is what a repeated field is, they take the first item.
"""

import functools
import math
import re
from collections.abc import Callable, Iterator
from datetime import datetime, tzinfo
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import ChainableUndefined, Context, LoopContext, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from relay.phone import digits, national
from relay.templating import limits
from relay.templating.limits import MAX_ITEMS

DIRECTIVE = re.compile(r"%[^a-zA-Z%]*(.)", re.DOTALL)
"""One directive of strftime, with the flags and the width that the C library allows."""


MOST_FORMATS = 8
LONGEST_DATE = 256
"""Characters of a date, and of a format of one. Python looks for the format in the whole text."""


class FilterError(Exception):
    """A filter cannot use its value. The message never holds the value."""


def first_name(text: str) -> str | None:
    """The first word of a whole name; of `Doe, Jane` what follows the comma."""
    last, comma, first = text.partition(",")
    return " ".join(first.split()) or None if comma else last.split()[0]


def last_name(text: str) -> str | None:
    """All but the first word of a whole name; of `Doe, Jane` what precedes the comma."""
    last, comma, _ = text.partition(",")
    return " ".join(last.split() if comma else last.split()[1:]) or None


def date(timezone: tzinfo) -> Callable[..., str | None]:
    """The filter `date(from, to)` for one time zone.

    The formats are strptime's and strftime's, or `iso`. Of several to read, a list, the first
    that fits counts. A time that says its offset is moved to the time zone; one that does not is
    taken unchanged. `%s` writes seconds since the epoch.
    """

    def reformat(text: str, read: str | list[str], write: str) -> str:
        formats = [read] if isinstance(read, str) else list(read)[:MOST_FORMATS]
        if max(map(len, (text, write, *formats))) > LONGEST_DATE:
            raise FilterError("its date, or a format of it, is too long")
        moment = _moment(text.strip(), formats)
        if moment.tzinfo is not None:
            moment = moment.astimezone(timezone)
        if write == "iso":
            return moment.isoformat()
        return moment.strftime(DIRECTIVE.sub(lambda found: _directive(found, moment), write))

    def _directive(found: re.Match[str], moment: datetime) -> str:
        """`%s` as a number: the C library would read the moment in the machine's time zone."""
        if found[1] != "s":
            return found[0]
        aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone)
        return str(math.floor(aware.timestamp()))

    return _on_text(reformat)


def _moment(text: str, patterns: list[str]) -> datetime:
    """The date, by the first form that fits. Raises FilterError where none does."""
    for pattern in patterns:
        try:
            if pattern == "iso":
                return datetime.fromisoformat(text)
            return datetime.strptime(text, pattern)  # noqa: DTZ007  a birthday has no time zone
        except (ValueError, re.error):
            continue
    tried = " or ".join(repr(pattern) for pattern in patterns)
    raise FilterError(f"its value is not a date of the form {tried}")


def _on_text(function: Callable[..., str | None]) -> Callable[..., Any]:
    @functools.wraps(function)
    def filtered(value: Any, *args: Any) -> Any:
        if isinstance(value, list):
            value = value[0] if value else None
        if value is None or isinstance(value, Undefined):
            return value
        text = str(value)
        return function(text, *args) if text.strip() else None

    return filtered


def all_filters(timezone: tzinfo) -> dict[str, Callable[..., Any]]:
    """The filters by their names in templates."""
    return {
        "date": date(timezone),
        **{f.__name__: _on_text(f) for f in (digits, first_name, last_name, national)},
    }


MAX_BITS = 1_000
READING_METHODS = ("get", "items", "keys", "values")
TEXT_FILTERS = (
    *("capitalize", "center", "e", "escape", "forceescape", "format", "indent", "lower"),
    *("replace", "string", "striptags", "title", "trim", "truncate", "upper", "urlencode"),
    *("urlize", "wordcount", "wordwrap"),
)
NUMBER_FILTERS = ("float", "int")
RESULT = "_result"

Root = Callable[[Context], Iterator[str]]


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment that every expression and template of relay.yaml is compiled in."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self, timezone: tzinfo) -> None:
        super().__init__(undefined=ChainableUndefined, finalize=none_is_nothing)
        self.globals = dict(GLOBALS)
        self.filters.update(all_filters(timezone))
        for name, function in list(self.filters.items()):
            self.filters[name] = limits.bounded_filter(name, function)
        for name, test in list(self.tests.items()):
            self.tests[name] = limits.bounded_test(test)
        for name in TEXT_FILTERS:
            self.filters[name] = null_through(self.filters[name])
        for name in NUMBER_FILTERS:
            self.filters[name] = number(self.filters[name])
        self.filters["default"] = self.filters["d"] = default
        self.filters[none_is_nothing.__name__] = none_is_nothing
        self.filters.update(limits.FILTERS)
        self.eval_context = EvalContext(self)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """`data.fields.items` is the field of that name; without one the method can be called."""
        if not isinstance(obj, dict):
            return super().getattr(obj, attribute)
        try:
            return obj[attribute]
        except KeyError:
            if attribute in READING_METHODS:
                return Method(obj, attribute)
            return self.undefined(obj=obj, name=attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if not isinstance(obj, dict):
            return super().getitem(obj, argument)
        try:
            return obj[argument]
        except (KeyError, TypeError):
            return self.undefined(obj=obj, name=argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%":
            if isinstance(left, str):
                limits.check_printf(left, right)
        else:
            check_product(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, function: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(function, LoopContext):  # of a recursive loop
            args = (limits.counted(args[0]), *args[1:]) if args else args
        else:
            args = limits.bounded_arguments(function, args, kwargs)
        return super().call(context, function, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`format` and `format_map` of a text, which may be a sender's."""
        made = super().wrap_str_format(value)
        if made is None:
            return None
        text, by_map = value.__self__, value.__name__ == "format_map"

        def bounded(*args: Any, **kwargs: Any) -> str:
            limits.check_format(text, () if by_map else args, args[0] if by_map else kwargs)
            return made(*args, **kwargs)

        return bounded

    def parse_expression(self, text: str) -> nodes.Expr:
        """One expression and nothing after it. Raises TemplateSyntaxError."""
        parser = Parser(self, text, state="variable")
        expression = parser.parse_expression()
        if not parser.stream.eos:
            parser.fail(f"there is more after the expression: {parser.stream.current.value!r}")
        return expression

    def compile_tree(self, tree: nodes.Template) -> Root:
        """The evaluator of the tree, which needs a Scope."""
        limits.instrument(tree)
        for concatenation in tree.find_all(nodes.Concat):
            concatenation.nodes = [_without_none(part) for part in concatenation.nodes]
        tree.set_environment(self)
        return self.from_string(tree).root_render_func


class Scope(Context):
    """A Context without the parts that need a loader; Jinja2's own takes ten times as long."""

    def __init__(self, sandbox: Sandbox, variables: dict[str, Any]) -> None:
        self.environment = sandbox
        self.parent = variables
        self.vars = {}
        self.exported_vars = set()
        self.eval_ctx = sandbox.eval_context
        self.name = None
        self.blocks = {}
        self.globals_keys = set()


class Method(ChainableUndefined):
    """A dict's method where the dict has no such item: undefined, unless it is called."""

    __slots__ = ("_method",)

    def __init__(self, obj: dict[str, Any], name: str) -> None:
        super().__init__(obj=obj, name=name)
        self._method = getattr(obj, name)

    def __call__(self, *args: Any) -> Any:
        return self._method(*args)


def expression_tree(expression: nodes.Expr) -> nodes.Template:
    """A template that puts the value of the expression into its scope, and renders nothing."""
    target = nodes.Name(RESULT, "store", lineno=1)
    return nodes.Template([nodes.Assign(target, expression, lineno=1)], lineno=1)


def absent(value: Any) -> bool:
    return value is None or isinstance(value, Undefined)


def none_is_nothing(value: Any) -> Any:
    return "" if value is None else value


def _without_none(part: nodes.Expr) -> nodes.Expr:
    return nodes.Filter(part, none_is_nothing.__name__, [], [], None, None, lineno=part.lineno)


def default(value: Any, default_value: Any = "", boolean: bool = False) -> Any:
    """Jinja2's `default`, for null too."""
    return default_value if absent(value) or (boolean and not value) else value


def null_through(function: Callable[..., Any]) -> Any:
    """A filter that leaves null null and undefined undefined."""
    position = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def filtered(*args: Any, **kwargs: Any) -> Any:
        value = args[position]
        return value if absent(value) else function(*args, **kwargs)

    return filtered


def number(function: Callable[..., Any]) -> Any:
    """Jinja2's `int` or `float`: 0 for what is absent only where the template asks for it."""

    @functools.wraps(function)
    def filtered(value: Any, *args: Any, **kwargs: Any) -> Any:
        if not absent(value):
            return function(value, *args, **kwargs)
        return function(None, *args, **kwargs) if args or kwargs else value

    return filtered


def bounded_range(*args: int) -> range:
    numbers = range(*args)
    if len(numbers) > MAX_ITEMS:
        raise SecurityError
    return numbers


GLOBALS: dict[str, Any] = {"dict": dict, "range": bounded_range}


def check_product(operator: str, left: Any, right: Any) -> None:
    """Refuse what could fill the memory or take for ever."""
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else 0
        too_large = bits > MAX_BITS
    elif isinstance(left, int):
        too_large = hasattr(right, "__len__") and left * len(right) > MAX_ITEMS
    else:
        too_large = hasattr(left, "__len__") and right * len(left) > MAX_ITEMS
    if too_large:
        raise SecurityError
