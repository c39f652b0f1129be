"""The JSON Schema of relay.yaml, options of the plugins included, for editors and checks."""

import ast
import inspect
import json
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from relay.config.model import DEFAULT_SOURCE, NAME, Settings
from relay.config.plugins import Registry
from relay.sink import Options
from relay.units import Bounds

DIALECT = "https://json-schema.org/draft/2020-12/schema"
PLACEHOLDER = {"description": "${NAME} and the like", "type": "string", "pattern": r"\$\{"}
TEXT_LIMITS = ("const", "enum", "format", "maxLength", "minLength", "pattern")
KEPT_OUTSIDE = ("default", "description")


class Described(GenerateJsonSchema):
    """Takes the description of an option from the docstring below its field.

    pydantic's own `use_attribute_docstrings` reads the source at every start; this reads it only
    for a schema.
    """

    def model_schema(self, schema: core_schema.ModelSchema) -> dict[str, Any]:
        found = super().model_schema(schema)
        properties = found.get("properties", {})
        for name, field in schema["cls"].model_fields.items():
            described = properties.get(field.alias or name)
            text = " ".join([_description(schema["cls"], name), *_bounds(field.annotation, field)])
            if described is not None and text.strip():
                described.setdefault("description", text.strip())
        return found


def _bounds(annotation: Any, field: Any = None) -> Iterator[str]:
    """The sentences that describe the bounds of a type."""
    metadata = field.metadata if field else getattr(annotation, "__metadata__", ())
    yield from (each.description for each in metadata if isinstance(each, Bounds))
    for inner in typing.get_args(annotation):
        if typing.get_origin(inner) is Annotated:
            yield from _bounds(inner)


def _description(model: type, name: str) -> str:
    """The docstring below the field, in the class or in one that it inherits from."""
    for each in model.__mro__:
        if text := _docstrings(_source_of(each)).get((each.__qualname__, name)):
            return text
    return ""


def _source_of(model: type) -> str:
    try:
        return inspect.getsourcefile(model) or ""
    except (TypeError, OSError):  # a class that was made without a file
        return ""


@cache
def _docstrings(path: str) -> dict[tuple[str, str], str]:
    """The docstrings below annotated names in the classes of a file, by class and name."""
    try:
        module = ast.parse(Path(path).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return {}
    return {
        (each.name, field.target.id): inspect.cleandoc(text.value.value).replace("\n", " ")
        for each in module.body
        if isinstance(each, ast.ClassDef)
        for field, text in zip(each.body, each.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def text(registry: Registry) -> str:
    """The schema as `relay schema` prints it."""
    return json.dumps(document(registry), indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def document(registry: Registry) -> dict[str, Any]:
    """The schema of everything that `relay.config.load` takes with these plugins."""
    schema = Settings.model_json_schema(schema_generator=Described)
    for section in ("sources", "sinks"):
        schema["properties"][section]["propertyNames"] = {"pattern": f"^{NAME.pattern}$"}
    sink = schema["$defs"]["SinkSettings"]
    names = [{"enum": sorted(registry.sinks)}, {"type": "string"}]
    sink["properties"]["plugin"] |= {"anyOf": names}
    sink["allOf"] = [
        _options(name, each.sink_class.Options, schema["$defs"])
        for name, each in sorted(registry.sinks.items())
    ]
    source = schema["$defs"]["SourceConfig"]
    source["properties"]["plugin"] |= {
        "anyOf": [{"enum": sorted(registry.sources)}, {"type": "string"}]
    }
    source["allOf"] = [
        _options(name, each.source_class.Options, schema["$defs"], "source.")
        for name, each in sorted(registry.sources.items())
        if name != DEFAULT_SOURCE
    ]
    if not source["allOf"]:  # an empty list is no schema
        del source["allOf"]
    schema = _with_placeholders(schema)
    schema["$defs"]["Placeholder"] = PLACEHOLDER
    return {"$schema": DIALECT, **schema, "title": "relay.yaml"}


def _options(
    plugin: str, model: type[Options], definitions: dict[str, Any], prefix: str = ""
) -> dict[str, Any]:
    """What holds for the options of the sinks, or of the sources, that name this plugin."""
    base = f"{prefix}{plugin}."
    place = f"#/$defs/{base}"
    try:
        options = model.model_json_schema(
            ref_template=place + "{model}", schema_generator=Described
        )
    except pydantic.errors.PydanticInvalidForJsonSchema:
        options = {"type": "object"}  # it has a type that JSON Schema lacks
    for name, definition in options.pop("$defs", {}).items():
        definitions[base + name] = definition
    definitions[f"{base}options"] = options
    return {
        "if": {"properties": {"plugin": {"const": plugin}}, "required": ["plugin"]},
        "then": {
            "properties": {"options": {"$ref": f"{place}options"}},
            "required": ["options"] if options.get("required") else [],
        },
    }


def _with_placeholders(node: Any) -> Any:
    """The same, but with `${…}` allowed wherever not just any text is."""
    if isinstance(node, list):
        return [_with_placeholders(item) for item in node]
    if not isinstance(node, dict):
        return node
    inner = {
        key: _with_placeholders(item) for key, item in node.items() if not _is_title(key, item)
    }
    # A tuple: where a property is called type, its value here is a mapping, which has no hash.
    if node.get("type") not in ("boolean", "integer", "number") and not _is_limited_text(node):
        return inner
    outer = {key: inner.pop(key) for key in KEPT_OUTSIDE if key in inner}
    return {"anyOf": [inner, {"$ref": "#/$defs/Placeholder"}], **outer}


def _is_title(key: str, value: Any) -> bool:
    # Pydantic's titles repeat the keys. A property can be called title, too: that is a mapping.
    return key == "title" and isinstance(value, str)


def _is_limited_text(node: dict[str, Any]) -> bool:
    return node.get("type") == "string" and any(limit in node for limit in TEXT_LIMITS)
