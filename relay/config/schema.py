"""The JSON Schema of relay.yaml, options of the plugins included, for editors and checks."""

import json
from typing import Any

import pydantic

from relay.config.model import NAME, Settings
from relay.config.plugins import RegisteredSink, Registry

DIALECT = "https://json-schema.org/draft/2020-12/schema"
PLACEHOLDER = {"description": "${NAME} and the like", "type": "string", "pattern": r"\$\{"}
TEXT_LIMITS = ("const", "enum", "format", "maxLength", "minLength", "pattern")
KEPT_OUTSIDE = ("default", "description")


def text(registry: Registry) -> str:
    """The schema as `relay schema` prints it."""
    return json.dumps(document(registry), indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def document(registry: Registry) -> dict[str, Any]:
    """The schema of everything that `relay.config.load` takes with these plugins."""
    schema = Settings.model_json_schema()
    for section in ("sources", "sinks"):
        schema["properties"][section]["propertyNames"] = {"pattern": f"^{NAME.pattern}$"}
    sink = schema["$defs"]["SinkSettings"]
    sink["properties"]["plugin"] = {"anyOf": [{"enum": sorted(registry.sinks)}, {"type": "string"}]}
    sink["allOf"] = [_options(each, schema["$defs"]) for _, each in sorted(registry.sinks.items())]
    schema = _with_placeholders(schema)
    schema["$defs"]["Placeholder"] = PLACEHOLDER
    return {"$schema": DIALECT, **schema, "title": "relay.yaml"}


def _options(sink: RegisteredSink, definitions: dict[str, Any]) -> dict[str, Any]:
    """What holds for the options of the sinks that name this plugin."""
    place = f"#/$defs/{sink.name}."
    try:
        options = sink.sink_class.Options.model_json_schema(ref_template=place + "{model}")
    except pydantic.errors.PydanticInvalidForJsonSchema:
        options = {"type": "object"}  # it has a type that JSON Schema cannot tell
    for name, definition in options.pop("$defs", {}).items():
        definitions[f"{sink.name}.{name}"] = definition
    definitions[f"{sink.name}.options"] = options
    return {
        "if": {"properties": {"plugin": {"const": sink.name}}, "required": ["plugin"]},
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
