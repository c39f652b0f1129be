"""relay.yaml as values, with the line of each, and the scalars of YAML 1.2's core schema.

`NO` and `1:30` stay text, `0o17` is fifteen, and a key given twice is an issue.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from relay.config.errors import MERGE, NO_MERGE, Issue
from relay.validation import REFUSED_FROM, Location

PLACEHOLDER = re.compile(r"\$\{(?!\{)[^{}\n]*\}")
# In [${NAME}] the braces would end the text, and a comma in a default too. They are exchanged
# for characters of Unicode's private plane while YAML looks on.
SPECIAL = "{}[],:#"
HIDDEN = str.maketrans(SPECIAL, "".join(chr(0xF0000 + ord(each)) for each in SPECIAL))
SHOWN = {hidden: special for special, hidden in HIDDEN.items()}
PREFIX = "tag:yaml.org,2002:"
UNKNOWN_TAG = "begins with !, which makes it a tag, and none that is known here; text wants quotes"
NAMING = {
    "undefined alias": "what begins with * is an alias, and this one of nothing; text wants quotes",
    "duplicate anchor": "what begins with & is an anchor, and this one stands twice",
    "undefined tag handle": "what begins with ! is a tag, and this one unknown; text wants quotes",
}
"""In place of YAML's own words where they name more than tokens: it may be a secret."""
NO_COLON = "a colon is missing after the key, as in key: value; a space belongs behind it"
TEMPLATE = "{{ … }} wants quotes around it"
ADVICE = {
    r"'\t' that cannot start": "indent with spaces, not with tabs",
    "that cannot start any token": "text that begins so wants quotes",
    "mapping values are not allowed": "text with a colon and a space in it wants quotes",
    "expected <block end>": "is the line as far in as those that it belongs with?",
}
"""What is mostly behind YAML's words."""
COLON = re.compile(r":(?:\s|$)")
MOST_NODES = 100_000
"""Aliases can make a short file huge; no honest configuration comes near this."""


@dataclass(frozen=True, slots=True)
class ParsedYaml:
    """A parsed file. Every key and list item has its line; mappings have text keys only."""

    value: Any = None
    lines: Mapping[Location, int] = field(default_factory=dict)
    issues: list[Issue] = field(default_factory=list)

    def line(self, location: Location) -> int:
        """The line of the value, or of the nearest thing around it that is in the file."""
        while location and location not in self.lines:
            location = location[:-1]
        return self.lines.get(location, 1)


def parse(content: bytes) -> ParsedYaml:
    """Read one document. Never raises for what the file says: see `Document.issues`."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return ParsedYaml(issues=[Issue((), "is not UTF-8 text", line)])
    text = PLACEHOLDER.sub(lambda match: match[0].translate(HIDDEN), text)
    try:
        return _Reader().read(yaml.compose(text, Loader=_Yaml12Loader))
    except yaml.YAMLError as error:
        return ParsedYaml(issues=[_syntax_issue(error, text)])
    except RecursionError:
        return ParsedYaml(issues=[Issue((), "is nested too deeply", 1)])


class _Yaml12Loader(yaml.SafeLoader):
    """Resolves plain scalars by YAML 1.2's core schema, not by PyYAML's YAML 1.1."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012  as types-PyYAML has it


for _kind, _pattern, _first in [
    ("null", r"|~|null|Null|NULL", ["", "~", "n", "N"]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.")),
]:
    _Yaml12Loader.add_implicit_resolver(PREFIX + _kind, re.compile(rf"(?:{_pattern})\Z"), _first)


class _Reader:
    """Turns YAML's nodes into values, noting lines and issues on the way."""

    def __init__(self) -> None:
        self.lines: dict[Location, int] = {}
        self.issues: list[Issue] = []
        self.open: list[yaml.Node] = []
        self.nodes = 0

    def read(self, root: yaml.Node | None) -> ParsedYaml:
        value = None if root is None else self._value(root, ())
        return ParsedYaml(value, self.lines, self.issues)

    def _value(self, node: yaml.Node, location: Location) -> Any:
        self.lines.setdefault(location, node.start_mark.line + 1)
        self.nodes += 1
        if self.nodes == MOST_NODES:
            self._add_issue(node, location, "its aliases make it too large")
        if self.nodes >= MOST_NODES:
            return None
        if node in self.open:
            return self._add_issue(node, location, "is an alias of what it stands in")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, location)
        self.open.append(node)
        try:
            return self._collection(node, location)
        finally:
            self.open.pop()

    def _collection(self, node: yaml.Node, location: Location) -> Any:
        if isinstance(node, yaml.SequenceNode) and node.tag == PREFIX + "seq":
            return [self._value(item, (*location, i)) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode) and node.tag == PREFIX + "map":
            return self._mapping(node, location)
        return self._unknown_tag(node, location)

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._add_issue(key_node, location, f"a key should be text; {TEMPLATE}")
                continue
            # The key's own text, so that `NO:` and `84700:` are the names that were written.
            key = key_node.value.translate(SHOWN)
            here = (*location, key)
            line = key_node.start_mark.line + 1
            if key in values:
                first = self.lines[here]
                self.issues.append(Issue(here, f"is given twice, first in line {first}", line))
                continue
            self.lines[here] = line
            if key == MERGE and key_node.style is None:
                # In a mapping of any keys, as `map` is, earlier releases took it for one.
                self.issues.append(Issue(here, NO_MERGE, line, REFUSED_FROM))
            values[key] = self._value(value_node, here)
        return values

    def _scalar(self, node: yaml.ScalarNode, location: Location) -> Any:
        text = node.value.translate(SHOWN)
        match node.tag.removeprefix(PREFIX):
            case "str":
                return text
            case "null":
                return None
            case "bool" if text.lower() in ("true", "false"):
                return text.lower() == "true"
            case "int" | "float" as kind:
                try:
                    return _integer(text) if kind == "int" else _float(text)
                except ValueError:
                    return self._add_issue(node, location, "is not a number that can be read")
        return self._unknown_tag(node, location)

    def _unknown_tag(self, node: yaml.Node, location: Location) -> None:
        self._add_issue(node, location, UNKNOWN_TAG)

    def _add_issue(self, node: yaml.Node, location: Location, message: str) -> None:
        self.issues.append(Issue(location, message, node.start_mark.line + 1))


def _integer(text: str) -> int:
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _float(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _syntax_issue(error: yaml.YAMLError, text: str) -> Issue:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        words = _discreet(", ".join(part for part in (error.context, error.problem) if part))
        if "quoted scalar" in words and "end of stream" in words:
            mark, words = error.context_mark, "a quote begins here that does not end"
        line = mark.line if mark else 0
        if (keys_line := _without_colon(error, text.splitlines())) is not None:
            return Issue((), f"is not YAML: {NO_COLON}", keys_line + 1)
        advice = _advice(words, text.splitlines()[line:][:1])
        return Issue((), f"is not YAML: {words}{advice}", line + 1)
    position = getattr(error, "position", 0)
    return Issue((), "has a character that YAML does not allow", text.count("\n", 0, position) + 1)


def _without_colon(error: yaml.MarkedYAMLError, lines: list[str]) -> int | None:
    """The index of the line that should have a colon; None where something else is wrong.

    YAML notices it further down: it takes the line for the beginning of a longer text.
    """
    if error.problem == "could not find expected ':'" and error.context_mark:
        return error.context_mark.line
    if error.problem != "mapping values are not allowed here" or not error.problem_mark:
        return None
    here = error.problem_mark
    if COLON.search(lines[here.line][: here.column]):
        return None  # it has its own colon: another one makes no sense there
    above = None
    for index in range(here.line - 1, -1, -1):
        line = lines[index].partition(" #")[0]
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if COLON.search(line):
            break
        above = index
    return above


def _discreet(words: str) -> str:
    """YAML's words, without the name of an alias, anchor or tag."""
    return next((instead for said, instead in NAMING.items() if said in words), words)


def _advice(words: str, lines: list[str]) -> str:
    if any(re.search(r":\s+\{\{", line.translate(SHOWN)) for line in lines):
        return f"; {TEMPLATE}"
    return next((f"; {advice}" for said, advice in ADVICE.items() if said in words), "")
