"""Shared parts of the pydantic types of relay.yaml: locations, new rules, placeholders, text.

A type refuses a value by an error of pydantic; relay.config.errors makes a sentence of it.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import pydantic
from pydantic import ValidationInfo
from pydantic_core import PydanticCustomError

Location = tuple[str | int, ...]
"""The path from the top of relay.yaml to a value: ("sinks", "crm", "batch", "size")."""

PLACEHOLDER = re.compile(r"(?P<escaped>\$)?\$\{(?!\{)(?P<inner>[^{}]*)\}")
"""`${NAME}` and the like. One in a checked value has not been filled in (`--no-fill`)."""

NEW_RULE = "relay_new_rule"
REFUSED_FROM = "0.3.0"
"""The release that refuses in every file what 0.2.0 began to refuse in a changed one."""
WITHOUT_NEW_RULES = {"without_new_rules": True}
"""The validation context in which `new_rule` refuses nothing."""


def dotted(location: Location) -> str:
    """`sources.sumotext.tokens[0]`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def new_rule(info: ValidationInfo[Any], message: str, refused_from: str = REFUSED_FROM) -> None:
    """Refuse a value, in a pydantic validator, by a rule that earlier releases did not have.

    It returns if the relay has run with the same file before: the value is then still valid.
    """
    if not (info.context or {}).get("without_new_rules"):
        raise PydanticCustomError(
            NEW_RULE, "{message}", {"message": message, "refused_from": refused_from}
        )


def text_type(parse: Callable[[str], Any], kind: str, json_schema: Mapping[str, Any]) -> Any:
    """The annotations of a pydantic type that `parse` reads from text."""

    def validate(value: Any) -> Any:
        try:
            return parse(value if isinstance(value, str) else "")
        except ValueError as error:
            raise PydanticCustomError(f"relay_{kind}", "{reason}", {"reason": str(error)}) from None

    return (
        pydantic.PlainValidator(validate),
        pydantic.WithJsonSchema({"type": "string", **json_schema}),
    )
