"""Expressions and templates over an event: `when`, `map`, and templates in a sink's options.

All are compiled when the configuration is loaded. Null and undefined values are absent: they
leave their key out of a record, and are empty inside a longer text.
"""

from collections import abc
from dataclasses import dataclass
from datetime import UTC, tzinfo
from typing import Any, NamedTuple

import pydantic
from jinja2 import TemplateSyntaxError, nodes
from jinja2.runtime import Undefined
from pydantic_core import PydanticCustomError, core_schema

from relay.event import Event
from relay.templating.environment import Root, Sandbox, expression_tree
from relay.templating.evaluation import (
    ABSENT,
    Blank,
    EvaluationError,
    Variables,
    evaluate,
    is_blank,
    plain,
    render,
    variables_of,
    without_blanks,
)
from relay.templating.lint import LintError, check, choices
from relay.validation import Location, dotted, new_rule

__all__ = [
    "Blank",
    "Compiler",
    "Condition",
    "EvaluationError",
    "ExpressionError",
    "RecordMap",
    "Template",
]

MARKS = ("{{", "{%", "{#")
OPTED_OUT = "`opted_out` is known to the sink's own `when` and `map` alone"
BLANK_CONSTANT = "is a blank text: write null to clear the field, or leave the key out"
Producer = abc.Callable[[Variables], Any]
"""Makes one value of a record; ABSENT leaves its key out."""


class ExpressionError(Exception):
    """An expression does not compile. `errors` are those of a `map`, at their places within it."""

    def __init__(self, message: str, errors: abc.Sequence[tuple[Location, str]] = ()) -> None:
        super().__init__(message)
        self.errors = list(errors) or [((), message)]


@dataclass(frozen=True, slots=True)
class Constant:
    """A producer with a constant value of relay.yaml: a scalar, or a list of scalars."""

    value: Any

    def __call__(self, variables: Variables) -> Any:  # noqa: ARG002  the same for each event
        return list(self.value) if isinstance(self.value, list) else self.value


class Compiled(NamedTuple):
    """What runs, and what has to be known of it."""

    root: Root
    uses_opted_out: bool


class Condition:
    """A `when`. In a sink's options it is a pydantic field type."""

    def __init__(self, sandbox: Sandbox, compiled: Compiled) -> None:
        self._sandbox = sandbox
        self._root, self.uses_opted_out = compiled

    def matches(self, event: Event, opted_out: bool = False) -> bool:
        """Whether the sink gets the event. Raises EvaluationError."""
        return bool(evaluate(self._sandbox, self._root, variables_of(event, opted_out)))

    def __repr__(self) -> str:
        return "Condition(…)"

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: pydantic.GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.with_info_plain_validator_function(_condition_field)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: pydantic.GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string"}


class RecordMap:
    """A `map`: what the record is made of. `columns` are its keys.

    `constants` are the values that are the same for each event, by key. In a sink's options it is
    a pydantic field type.
    """

    def __init__(self, producers: dict[str, Producer], uses_opted_out: bool) -> None:
        self._producers = producers
        self.columns = tuple(producers)
        self.constants = {
            key: each.value for key, each in producers.items() if isinstance(each, Constant)
        }
        self.uses_opted_out = uses_opted_out

    def record(
        self, event: Event, opted_out: bool = False, dropped: list[str] | None = None
    ) -> dict[str, Any]:
        """The record for the event, as JSON has it. Raises EvaluationError.

        With `dropped`, a value that a filter refuses is left out of the record, and what was
        refused is added to the list.
        """
        return produce_items(self._producers, variables_of(event, opted_out), dropped)

    def __repr__(self) -> str:
        return f"RecordMap({', '.join(self.columns)})"

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: pydantic.GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        # Value by value, so that each error has its own line.
        values = core_schema.with_info_plain_validator_function(_producer_field)
        made = core_schema.no_info_after_validator_function(
            lambda producers: cls(producers, uses_opted_out=False),
            core_schema.dict_schema(core_schema.str_schema(), values),
        )
        return core_schema.no_info_wrap_validator_function(
            lambda value, make: value if isinstance(value, cls) else make(value), made
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: pydantic.GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "object"}


class Template:
    """A text with `{{ … }}` in it. In a sink's options it is a pydantic field type.

    `choices` are the texts that it can give, as far as it contains them.
    """

    def __init__(
        self, text: str, sandbox: Sandbox, compiled: Compiled, choices: frozenset[str]
    ) -> None:
        self.text = text
        self.choices = choices
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


class Compiler:
    """Compiles expressions and templates, with their dates in one time zone.

    With `other_data`, an event's `data` may have other names than Sumotext's.
    """

    def __init__(self, timezone: tzinfo = UTC, *, other_data: bool = False) -> None:
        self.timezone = timezone
        self._other_data = other_data
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
        given = choices(tree)
        return Template(text, self._sandbox, self._compile(tree), given)

    def mapping(self, values: abc.Mapping[str, Any], blank: Blank = "keep") -> RecordMap:
        """Compile a `map`. Raises one ExpressionError for all that is wrong in it."""
        building = _Building(self, blank)
        producers = {key: building.producer(value, (key,)) for key, value in values.items()}
        if building.errors:
            raise ExpressionError("the map does not compile", building.errors)
        return RecordMap(producers, building.uses_opted_out)

    def value(self, text: str, blank: Blank = "keep") -> tuple[Producer, bool]:
        """A producer for a text with templates, and whether it uses `opted_out`.

        One `{{ … }}` and nothing else keeps the type of its value.
        """
        sandbox = self._sandbox
        tree = self._tree(lambda: sandbox.parse(text))
        if expression := only_expression(tree):
            root, uses_opted_out = self._compile(expression_tree(expression))
            return lambda variables: without_blanks(
                plain(evaluate(sandbox, root, variables)), blank
            ), uses_opted_out
        root, uses_opted_out = self._compile(tree)
        # White space between values that are absent says nothing, so it clears nothing either.
        spaces: Blank = "keep" if blank == "keep" else "omit"
        return lambda variables: without_blanks(
            render(sandbox, root, variables) or ABSENT, spaces
        ), uses_opted_out

    def _tree(self, parse: abc.Callable[[], nodes.Template]) -> nodes.Template:
        try:
            return parse()
        except TemplateSyntaxError as error:
            reason = (error.message or "wrong syntax").rstrip(".")
            raise ExpressionError(f"does not compile: {reason}") from None
        except Exception as error:  # noqa: BLE001  the text is at fault for whatever it is
            raise ExpressionError(f"does not compile: {type(error).__name__}") from None

    def _compile(self, tree: nodes.Template) -> Compiled:
        try:
            names = check(tree, self._sandbox, other_data=self._other_data)
            return Compiled(self._sandbox.compile_tree(tree), "opted_out" in names)
        except LintError as error:
            raise ExpressionError(str(error)) from None
        except Exception as error:  # noqa: BLE001  Python's own compiler has limits too
            raise ExpressionError(f"does not compile: {type(error).__name__}") from None


class _Building:
    """Makes the producers of one `map`, and gathers its errors."""

    def __init__(self, compiler: Compiler, blank: Blank) -> None:
        self.compiler = compiler
        self.blank = blank
        self.errors: list[tuple[Location, str]] = []
        self.uses_opted_out = False

    def producer(self, value: Any, location: Location) -> Producer:
        if isinstance(value, str) and any(mark in value for mark in MARKS):
            return self._text(value, location)
        if isinstance(value, dict):
            items = {key: self.producer(item, (*location, key)) for key, item in value.items()}
            return lambda variables: produce_items(items, variables)
        if isinstance(value, list):
            parts = [self.producer(item, (*location, i)) for i, item in enumerate(value)]
            if all(is_scalar(part) for part in parts):
                return Constant(value)
            return lambda variables: produce_list(parts, variables)
        return Constant(value)

    def _text(self, text: str, location: Location) -> Producer:
        try:
            producer, uses_opted_out = self.compiler.value(text, self.blank)
        except ExpressionError as error:
            self.errors.append((location, str(error)))
            return lambda _: ABSENT
        self.uses_opted_out |= uses_opted_out
        return producer


def is_scalar(producer: Producer) -> bool:
    return isinstance(producer, Constant) and not isinstance(producer.value, list)


def only_expression(tree: nodes.Template) -> nodes.Expr | None:
    """The one `{{ … }}` of a template that has nothing else but space around it."""
    if len(tree.body) != 1 or not isinstance(tree.body[0], nodes.Output):
        return None
    match [part for part in tree.body[0].nodes if not is_space(part)]:
        case [expression] if not isinstance(expression, nodes.TemplateData):
            return expression
    return None


def is_space(node: nodes.Node) -> bool:
    return isinstance(node, nodes.TemplateData) and node.data.isspace()


def produce_items(
    producers: dict[str, Producer], variables: Variables, dropped: list[str] | None = None
) -> dict[str, Any]:
    record = {}
    for key, produce in producers.items():
        try:
            value = produce(variables)
        except EvaluationError as error:
            if dropped is None or not error.of_value:
                raise EvaluationError(f"{key}: {error}", of_value=error.of_value) from None
            dropped.append(f"{key}: {error}")
            continue
        if not isinstance(value, Undefined):
            record[key] = value
    return record


def produce_list(producers: list[Producer], variables: Variables) -> list[Any]:
    values = (produce(variables) for produce in producers)
    return [value for value in values if not isinstance(value, Undefined)]


def _condition_field(value: Any, info: core_schema.ValidationInfo) -> Condition:
    if isinstance(value, Condition):
        return value
    if not isinstance(value, str):
        raise PydanticCustomError("relay_text", "should be text")
    try:
        condition = _compiler(info).condition(value)
    except ExpressionError as error:
        raise _field_error(str(error)) from None
    if condition.uses_opted_out:
        raise _field_error(OPTED_OUT)
    return condition


def _template_field(value: Any, info: core_schema.ValidationInfo) -> Template:
    if isinstance(value, Template):
        return value
    if not isinstance(value, str):
        raise PydanticCustomError("relay_text", "should be text")
    try:
        return _compiler(info).template(value)
    except ExpressionError as error:
        raise _field_error(str(error)) from None


def _producer_field(value: Any, info: core_schema.ValidationInfo) -> Producer:
    blank: Blank = (info.context or {}).get("blank", "keep")
    if blank != "keep" and is_blank(value):
        new_rule(info, BLANK_CONSTANT)
    building = _Building(_compiler(info), blank)
    producer = building.producer(value, ())
    for location, message in building.errors:
        raise _field_error(": ".join(filter(None, (dotted(location), message))))
    if building.uses_opted_out:
        raise _field_error(OPTED_OUT)
    return producer


def _compiler(info: core_schema.ValidationInfo) -> Compiler:
    return (info.context or {}).get("environment") or Compiler()


def _field_error(message: str) -> PydanticCustomError:
    return PydanticCustomError("relay_expression", "{e}", {"e": message})
