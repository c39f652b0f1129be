"""The part of SOQL and SOSL that a sink may want (Salesforce SOQL and SOSL Reference).

SELECT fields | COUNT() FROM object WHERE … AND|OR|NOT (…) ORDER BY … LIMIT … OFFSET …
FIND {…} IN PHONE|EMAIL|NAME|ALL FIELDS RETURNING Object(fields WHERE … LIMIT …), … LIMIT …
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stubs.salesforce_ids import full_id
from stubs.salesforce_values import comparable

Row = Mapping[str, Any]
Test = Callable[[Row], bool]

TOKEN = re.compile(
    r"""\s*(?:
        (?P<text>'(?:\\.|[^'\\])*')
      | (?P<moment>\d{4}-\d\d-\d\d(?:T[0-9:.]+(?:Z|[+-]\d\d:?\d\d))?)
      | (?P<number>-?\d+(?:\.\d+)?)
      | (?P<word>[A-Za-z_][A-Za-z0-9_.]*)
      | (?P<sign><=|>=|!=|<>|[=<>(),])
    )""",
    re.VERBOSE,
)
ID = re.compile("[A-Za-z0-9]{15}([A-Za-z0-9]{3})?")
ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}
RESERVED = frozenset("?&|!{}[]()^~*:\\\"'+-")


class Malformed(Exception):
    """What was asked is no query; `code` is the vendor's."""

    def __init__(self, message: str, code: str = "MALFORMED_QUERY") -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Query:
    """A SELECT. `fields` are as they were written; `names` are all that it speaks of."""

    fields: list[str]
    kind: str
    counts: bool = False
    test: Test = lambda _row: True
    order: list[tuple[str, bool]] = field(default_factory=list)
    limit: int | None = None
    offset: int = 0
    names: set[str] = field(default_factory=set)


@dataclass
class Search:
    """A FIND: any of `terms`, in fields of these types, in each of these objects."""

    terms: list[str]
    group: str
    returning: list[Query]
    limit: int = 2000


def query(text: str) -> Query:
    """Raises Malformed."""
    reader = _Reader(text)
    reader.expect("SELECT")
    fields, counts = reader.selection()
    reader.expect("FROM")
    found = Query(fields, reader.word(), counts)
    found.names.update(fields)
    reader.tail(found)
    reader.end()
    return found


def search(text: str) -> Search:
    """Raises Malformed."""
    found = re.fullmatch(
        r"\s*FIND\s*\{(?P<what>(?:\\.|[^}\\])*)\}(?:\s+IN\s+(?P<group>\w+)\s+FIELDS)?(?P<rest>.*)",
        text,
        re.IGNORECASE | re.DOTALL,
    )
    if not found:
        raise Malformed("unexpected token: FIND needs a term in braces", "MALFORMED_SEARCH")
    reader = _Reader(found["rest"])
    asked = Search(terms(found["what"]), (found["group"] or "ALL").upper(), [])
    if reader.given("RETURNING"):
        asked.returning.append(reader.returning())
        while reader.given(","):
            asked.returning.append(reader.returning())
    if reader.given("LIMIT"):
        asked.limit = reader.number()
    reader.end()
    return asked


def terms(what: str) -> list[str]:
    """The terms of `a OR "b c"`; a reserved character must be escaped, and one letter is none."""
    found = []
    for part in re.split(r"\s+OR\s+", what.strip()):
        quoted = re.fullmatch(r'"((?:\\.|[^"\\])*)"', part)
        term = quoted[1] if quoted else part
        bare = re.sub(r"\\.", "", term.strip("*") if not quoted else term)
        if RESERVED & set(bare):
            raise Malformed("line 1: reserved characters must be escaped", "MALFORMED_SEARCH")
        term = re.sub(r"\\(.)", r"\1", term)
        if len(term.strip("*")) < 2:
            raise Malformed(
                "search term must be longer than one character: " + term, "MALFORMED_SEARCH"
            )
        found.append(term)
    return found


class _Reader:
    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        place = 0
        text = text.rstrip()
        while place < len(text):
            found = TOKEN.match(text, place)
            if not found:
                raise Malformed(f"unexpected token: '{text[place:].strip()[:1]}'")
            kind = str(found.lastgroup)
            self._tokens.append((kind, found[kind]))
            place = found.end()
        self._next = 0
        self.names: set[str] = set()

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._next] if self._next < len(self._tokens) else ("end", "<EOF>")

    def _take(self) -> tuple[str, str]:
        token = self._peek()
        self._next += 1
        return token

    def given(self, *words: str) -> bool:
        """Take these, if they come next."""
        ahead = self._tokens[self._next : self._next + len(words)]
        if [text.upper() for _, text in ahead] != list(words):
            return False
        self._next += len(words)
        return True

    def expect(self, word: str) -> None:
        if not self.given(word):
            raise Malformed(f"expecting '{word}', found '{self._peek()[1]}'")

    def end(self) -> None:
        if self._peek()[0] != "end":
            raise Malformed(f"unexpected token: '{self._peek()[1]}'")

    def word(self) -> str:
        kind, text = self._take()
        if kind != "word":
            raise Malformed(f"unexpected token: '{text}'")
        return text

    def number(self) -> int:
        kind, text = self._take()
        if kind != "number" or not text.isdigit():
            raise Malformed(f"unexpected token: '{text}'")
        return int(text)

    def selection(self) -> tuple[list[str], bool]:
        if self.given("COUNT", "(", ")"):
            return [], True
        fields = [self.word()]
        while self.given(","):
            fields.append(self.word())
        return fields, False

    def returning(self) -> Query:
        found = Query(["Id"], self.word())
        if self.given("("):
            found.fields, _ = self.selection()
            self.tail(found)
            self.expect(")")
        found.names.update(found.fields)
        return found

    def tail(self, found: Query) -> None:
        """What may stand behind FROM."""
        if self.given("WHERE"):
            found.test = self._any()
        if self.given("ORDER", "BY"):
            found.order.append(self._order())
            while self.given(","):
                found.order.append(self._order())
        if self.given("LIMIT"):
            found.limit = self.number()
        if self.given("OFFSET"):
            found.offset = self.number()
        found.names |= self.names
        self.names = set()

    def _order(self) -> tuple[str, bool]:
        name = self.word()
        self.names.add(name)
        down = self.given("DESC")
        if not down:
            self.given("ASC")
        if self.given("NULLS"):
            self.word()
        return name, down

    def _any(self) -> Test:
        """Terms joined by AND, or by OR; both together want parentheses."""
        first = self._one()
        tests = [first]
        joined = self._peek()[1].upper()
        if joined not in {"AND", "OR"}:
            return first
        while self.given(joined):
            tests.append(self._one())
        if self._peek()[1].upper() in {"AND", "OR"}:
            raise Malformed(f"unexpected token: '{self._peek()[1]}'")
        together = all if joined == "AND" else any
        return lambda row: together(test(row) for test in tests)

    def _one(self) -> Test:
        if self.given("NOT"):
            test = self._one()
            return lambda row: not test(row)
        if self.given("("):
            test = self._any()
            self.expect(")")
            return test
        return self._comparison()

    def _comparison(self) -> Test:
        name = self.word()
        self.names.add(name)
        seen = comparer(name)
        if self.given("IN"):
            wanted = self._list(name)
            return lambda row: seen(at(row, name)) in wanted
        if self.given("NOT", "IN"):
            unwanted = self._list(name)
            return lambda row: seen(at(row, name)) not in unwanted
        if self.given("LIKE"):
            pattern = _like(str(self._literal()))
            return lambda row: bool(pattern.fullmatch(str(at(row, name) or "")))
        _, sign = self._take()
        compare = SIGNS.get(sign)
        if compare is None:
            raise Malformed(f"unexpected token: '{sign}'")
        value = self._operand(name)
        return lambda row: compare(seen(at(row, name)), value)

    def _list(self, name: str) -> set[Any]:
        self.expect("(")
        found = {self._operand(name)}
        while self.given(","):
            found.add(self._operand(name))
        self.expect(")")
        return found

    def _operand(self, name: str) -> Any:
        """What a field is compared with, as its comparer sees it."""
        value, seen = self._literal(), comparer(name)
        if seen is _id and isinstance(value, str) and not ID.fullmatch(value):
            raise Malformed(f"invalid ID field: {value}", "INVALID_QUERY_FILTER_OPERATOR")
        return seen(value)

    def _literal(self) -> Any:
        kind, text = self._take()
        match kind, text.lower():
            case "text", _:
                return _unescaped(text[1:-1])
            case "moment", _:
                return text
            case "number", _:
                return float(text)
            case "word", "null":
                return None
            case "word", "true" | "false":
                return text.lower() == "true"
        raise Malformed(f"unexpected token: '{text}'")


SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<>": lambda a, b: a != b,
    "<": lambda a, b: a is not None and a < b,
    "<=": lambda a, b: a is not None and a <= b,
    ">": lambda a, b: a is not None and a > b,
    ">=": lambda a, b: a is not None and a >= b,
}


def at(row: Row, name: str) -> Any:
    """A field, or one of a parent's: `Contact__r.Name`; capitals do not matter."""
    value: Any = row
    for part in name.split("."):
        value = _got(value, part) if isinstance(value, Mapping) else None
    return value


def _got(row: Row, name: str) -> Any:
    if name in row:
        return row[name]
    return next((value for each, value in row.items() if each.lower() == name.lower()), None)


def comparer(name: str) -> Callable[[Any], Any]:
    """How values of a field are compared: ids differ by capitals, and text does not."""
    return _id if name.lower().endswith("id") else comparable


def _id(value: Any) -> Any:
    """An id with 15 characters is the same as that with 18."""
    return full_id(value) or value if isinstance(value, str) else value


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: ESCAPES.get(found[1], found[1]), text)


def _like(text: str) -> re.Pattern[str]:
    pattern = "".join({"%": ".*", "_": "."}.get(letter) or re.escape(letter) for letter in text)
    return re.compile(pattern, re.IGNORECASE | re.DOTALL)
