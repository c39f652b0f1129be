"""Expressions and templates over an event: `when`, `map`, and templates in a sink's options.

All are compiled when the configuration is loaded. Null and undefined values are absent: they
leave their key out of a record, and are empty inside a longer text.
"""

from collections import abc
from datetime import UTC, tzinfo
from typing import Any, NamedTuple

import pydantic
from jinja2 import TemplateSyntaxError, UndefinedError, nodes
from jinja2.exceptions import SecurityError
from jinja2.meta import find_undeclared_variables
from jinja2.runtime import Undefined
from pydantic_core import PydanticCustomError, core_schema

from relay.event import Event
from relay.helpers import HelperError
from relay.mistake import Location, Mistake
from relay.nearest import nearest
from relay.sandbox import GLOBALS, RESULT, Root, Sandbox, Scope, absent, expression_tree

VARIABLES = ("id", "type", "time", "source", "subject", "test", "data", "opted_out")
DATA = (
    *("mobile", "country", "short_code", "keyword", "carrier", "message", "message_id"),
    *("reply", "label", "consent", "fields", "parameters"),
)
NEAR_ENOUGH = 0.75
"""A name this near to a known one is a slip; any other is merely undefined."""
MAX_TEXT = 1024 * 1024
MARKS = ("{{", "{%", "{#")
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

Variables = dict[str, Any]
Producer = abc.Callable[[Variables], Any]
"""Makes one value of a record; ABSENT leaves its key out."""
ABSENT = Undefined()


class ExpressionError(Exception):
    """It does not compile. A `map` tells each `Mistake` apart, at its place within the map."""

    def __init__(self, message: str, mistakes: abc.Sequence[Mistake] = ()) -> None:
        super().__init__(message)
        self.mistakes = list(mistakes) or [Mistake((), message)]


class EvaluationError(Exception):
    """It compiles, and fails for this event. The message holds no value of the event."""


class Compiled(NamedTuple):
    """What runs, and what has to be known of it."""

    root: Root
    uses_opted_out: bool


class Condition:
    """A `when`."""

    def __init__(self, sandbox: Sandbox, compiled: Compiled) -> None:
        self._sandbox = sandbox
        self._root, self.uses_opted_out = compiled

    def matches(self, event: Event, opted_out: bool = False) -> bool:
        """Whether the sink gets the event. Raises EvaluationError."""
        return bool(evaluate(self._sandbox, self._root, variables_of(event, opted_out)))


class Mapping:
    """A `map`: what the record is made of. `columns` are its keys."""

    def __init__(self, producers: dict[str, Producer], uses_opted_out: bool) -> None:
        self._producers = producers
        self.columns = tuple(producers)
        self.uses_opted_out = uses_opted_out

    def record(self, event: Event, opted_out: bool = False) -> dict[str, Any]:
        """The record for the event, as JSON has it. Raises EvaluationError."""
        return produce_items(self._producers, variables_of(event, opted_out))


class Template:
    """A text with `{{ … }}` in it. In a sink's options it is a pydantic field type."""

    def __init__(self, text: str, sandbox: Sandbox, compiled: Compiled) -> None:
        self.text = text
        self._sandbox = sandbox
        self._root = compiled.root

    def render(self, event: Event) -> str:
        """The text for the event. Raises EvaluationError."""
        return render(self._sandbox, self._root, variables_of(event, False))

    def __repr__(self) -> str:
        return "Template(…)"

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: pydantic.GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.with_info_plain_validator_function(_template_field)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: pydantic.GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string"}


class Environment:
    """Compiles expressions and templates, with their dates in one time zone."""

    def __init__(self, timezone: tzinfo = UTC) -> None:
        self.timezone = timezone
        self._sandbox = Sandbox(timezone)

    def condition(self, text: str) -> Condition:
        """Compile one expression. Raises ExpressionError."""
        if text.strip().startswith(("{{", "{%")):
            raise ExpressionError("should be an expression alone, without {{ }} or {% %}")
        tree = self._tree(lambda: expression_tree(self._sandbox.parse_expression(text)))
        return Condition(self._sandbox, self._compile(tree))

    def template(self, text: str) -> Template:
        """Compile a text with templates in it. Raises ExpressionError."""
        tree = self._tree(lambda: self._sandbox.parse(text))
        return Template(text, self._sandbox, self._compile(tree))

    def mapping(self, values: abc.Mapping[str, Any]) -> Mapping:
        """Compile a `map`. Raises one ExpressionError for all that is wrong in it."""
        building = _Building(self)
        producers = {key: building.producer(value, (key,)) for key, value in values.items()}
        if building.mistakes:
            raise ExpressionError("the map does not compile", building.mistakes)
        return Mapping(producers, building.uses_opted_out)

    def value(self, text: str) -> tuple[Producer, bool]:
        """A producer for a text with templates, and whether it uses `opted_out`.

        One `{{ … }}` and nothing else keeps the type of its value.
        """
        tree = self._tree(lambda: self._sandbox.parse(text.strip()))
        sandbox = self._sandbox
        match tree.body:
            case [nodes.Output(nodes=[expression])] if not is_text(expression):
                root, uses = self._compile(expression_tree(expression))
                return lambda variables: plain(evaluate(sandbox, root, variables)), uses
        root, uses = self._compile(self._tree(lambda: self._sandbox.parse(text)))
        return lambda variables: render(sandbox, root, variables) or ABSENT, uses

    def _tree(self, parse: abc.Callable[[], nodes.Template]) -> nodes.Template:
        try:
            return parse()
        except TemplateSyntaxError as error:
            reason = (error.message or "wrong syntax").rstrip(".")
            raise ExpressionError(f"does not compile: {reason}") from None
        except Exception as error:  # noqa: BLE001  the text is at fault for whatever it is
            raise ExpressionError(f"does not compile: {type(error).__name__}") from None

    def _compile(self, tree: nodes.Template) -> Compiled:
        names = self._check(tree)
        try:
            return Compiled(self._sandbox.compile_tree(tree), "opted_out" in names)
        except Exception as error:  # noqa: BLE001  Python's own compiler has limits too
            raise ExpressionError(f"does not compile: {type(error).__name__}") from None

    def _check(self, tree: nodes.Template) -> set[str]:
        """Find what would only show when an event comes. Returns the variables that it uses."""
        tree.set_environment(self._sandbox)
        for kind, tag in UNAVAILABLE.items():
            if tree.find(kind):
                raise ExpressionError(f"does not compile: {{% {tag} %}} is not available here")
        for used in tree.find_all(nodes.Filter):
            check_name("filter", used.name, self._sandbox.filters)
        for tested in tree.find_all(nodes.Test):
            check_name("test", tested.name, self._sandbox.tests)
        names = find_undeclared_variables(tree)
        for name in sorted(names - set(VARIABLES)):
            check_variable(name)
        for attribute in tree.find_all(nodes.Getattr):
            check_attribute(attribute)
        return names


class _Building:
    """Makes the producers of one `map`, and gathers its mistakes."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.mistakes: list[Mistake] = []
        self.uses_opted_out = False

    def producer(self, value: Any, location: Location) -> Producer:
        if isinstance(value, str) and any(mark in value for mark in MARKS):
            return self._text(value, location)
        if isinstance(value, dict):
            items = {key: self.producer(item, (*location, key)) for key, item in value.items()}
            return lambda variables: produce_items(items, variables)
        if isinstance(value, list):
            parts = [self.producer(item, (*location, i)) for i, item in enumerate(value)]
            return lambda variables: produce_list(parts, variables)
        return lambda _: value

    def _text(self, text: str, location: Location) -> Producer:
        try:
            producer, uses_opted_out = self.environment.value(text)
        except ExpressionError as error:
            self.mistakes.append(Mistake(location, str(error)))
            return lambda _: ABSENT
        self.uses_opted_out |= uses_opted_out
        return producer


def variables_of(event: Event, opted_out: bool) -> Variables:
    return {
        "id": event.id,
        "type": event.type,
        "time": event.time,
        "source": event.source,
        "subject": event.subject,
        "test": event.test,
        "data": event.data,
        "opted_out": opted_out,
        **GLOBALS,
    }


def evaluate(sandbox: Sandbox, root: Root, variables: Variables) -> Any:
    """The value of an expression."""
    scope = Scope(sandbox, variables)
    try:
        for _ in root(scope):
            pass
    except Exception as error:  # noqa: BLE001  an expression can raise anything
        raise EvaluationError(reason_of(error)) from None
    return scope.vars[RESULT]


def render(sandbox: Sandbox, root: Root, variables: Variables) -> str:
    """The text of a template."""
    text = ""
    try:
        for piece in root(Scope(sandbox, variables)):
            text += piece
            check_length(text)
    except EvaluationError:
        raise
    except Exception as error:  # noqa: BLE001  an expression can raise anything
        raise EvaluationError(reason_of(error)) from None
    return text


def produce_items(producers: dict[str, Producer], variables: Variables) -> dict[str, Any]:
    record = {}
    for key, produce in producers.items():
        try:
            value = produce(variables)
        except EvaluationError as error:
            raise EvaluationError(f"{key}: {error}") from None
        if not isinstance(value, Undefined):
            record[key] = value
    return record


def produce_list(producers: list[Producer], variables: Variables) -> list[Any]:
    values = (produce(variables) for produce in producers)
    return [value for value in values if not isinstance(value, Undefined)]


def plain(value: Any) -> Any:
    """An expression's value as JSON has it. Null at the top is absent, as undefined is."""
    return ABSENT if absent(value) else _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        check_length(value)
        return str(value)
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise EvaluationError("its number is too large")
        return value
    if isinstance(value, dict):
        items = value.items()
        return {str(k): _plain(v) for k, v in items if not isinstance(v, Undefined)}
    if isinstance(value, abc.Iterable):
        return [_plain(item) for item in value if not isinstance(item, Undefined)]
    raise EvaluationError(f"it gives a {type(value).__name__}, which JSON does not have")


def is_text(node: nodes.Node) -> bool:
    return isinstance(node, nodes.TemplateData)


def check_length(text: str) -> None:
    if len(text) > MAX_TEXT:
        raise EvaluationError("its text is longer than a million characters")


def reason_of(error: Exception) -> str:
    """A sentence that shows no value, as Python's and Jinja2's own messages may."""
    if isinstance(error, HelperError):
        return str(error)
    if isinstance(error, UndefinedError):
        return "it calls or compares something that is undefined or null"
    if isinstance(error, SecurityError):
        return "it does what a template may not do, or makes something too large"
    return f"it raises {type(error).__name__}"


def check_name(kind: str, name: str, known: abc.Iterable[str]) -> None:
    if name not in known:
        match = nearest(name, known)
        hint = f'; did you mean "{match}"?' if match else ""
        raise ExpressionError(f'does not compile: there is no {kind} "{name}"{hint}')


def check_variable(name: str) -> None:
    if name in DATA:
        raise ExpressionError(f'there is no variable "{name}"; did you mean "data.{name}"?')
    if name not in GLOBALS and (match := nearest(name, VARIABLES, NEAR_ENOUGH)):
        raise ExpressionError(f'there is no variable "{name}"; did you mean "{match}"?')


def check_attribute(node: nodes.Getattr) -> None:
    if not (isinstance(node.node, nodes.Name) and node.node.name == "data"):
        return
    if node.attr not in DATA and (match := nearest(node.attr, DATA, NEAR_ENOUGH)):
        raise ExpressionError(f'there is no "data.{node.attr}"; did you mean "data.{match}"?')


def _template_field(value: Any, info: core_schema.ValidationInfo) -> Template:
    if isinstance(value, Template):
        return value
    if not isinstance(value, str):
        raise PydanticCustomError("relay_text", "should be text")
    environment = (info.context or {}).get("environment") or Environment()
    try:
        template: Template = environment.template(value)
    except ExpressionError as error:
        raise PydanticCustomError("relay_expression", "{e}", {"e": str(error)}) from None
    return template
