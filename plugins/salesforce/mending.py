"""Mending: what the options allow to change in a record that was refused.

Each way is tried once for each field: Salesforce may tell of one after the other.
"""

import re
from collections.abc import Iterable
from typing import Any

from relay import Log

from .errors import GONE, INVALID, TOO_LONG
from .options import PREFIXES, Mending
from .refusal import Refusal
from .row import Row

REQUIRED = "REQUIRED_FIELD_MISSING"
DEFAULTS = "defaults"
NAMED = re.compile(r"\[([^\[\]]*)\]")
LONGEST = re.compile(r"max length=(\d+)")
NOT_WRITABLE = "INVALID_FIELD_FOR_INSERT_UPDATE"
CREATE_ONLY = ("TaskSubtype",)
"""Fields that a new record may say, and no update ("Task", object reference)."""


class Mender:
    """Mends rows of one object.

    With `forgets_ids`, a row whose record is gone gets a new one. `kept` are fields without which
    no record is to be written.
    """

    def __init__(
        self,
        options: Mending,
        log: Log,
        *,
        use_match: bool = False,
        forgets_ids: bool = True,
        kept: Iterable[str] = (),
    ) -> None:
        self._options = options
        self._log = log
        self._kept = kept
        self.use_match = use_match
        self._forgets_ids = forgets_ids
        self._ways = {
            REQUIRED: (DEFAULTS, self._fill),
            TOO_LONG: ("on_invalid", self._shorten),
            **dict.fromkeys(INVALID, ("on_invalid", self._drop)),
            NOT_WRITABLE: ("create_only", self._leave_as_created),
        }
        if forgets_ids:
            self._ways |= dict.fromkeys(GONE, ("id", self._forget))
        if self.use_match:
            self._ways["DUPLICATES_DETECTED"] = ("duplicates", self._match)

    def mend(self, row: Row) -> bool:
        """Whether all that was refused is mended, so that the row may go once more."""
        ways = [self._ways.get(refusal.code) for refusal in row.refusals]
        if not ways or None in ways:
            return False
        chosen = [(way, each) for way, each in zip(ways, row.refusals, strict=True) if way]
        tries = {each for way, refusal in chosen for each in _tries(way[0], refusal)}
        if tries & row.mended:
            return False
        row.mended |= tries
        mended = [way[1](row, refusal) for way, refusal in chosen]
        return all(mended)

    def _fill(self, row: Row, refusal: Refusal) -> bool:
        """The default of each field that is missing."""
        names = missing(refusal)
        found = spelt(names, self._options.defaults)
        row.fields |= {name: self._options.defaults[name] for name in found}
        return bool(names) and len(found) == len(names)

    def _shorten(self, row: Row, refusal: Refusal) -> bool:
        longest = LONGEST.search(refusal.message)
        if self._options.on_invalid != "truncate" or longest is None:
            return self._drop(row, refusal)
        fields = self._invalid(row, refusal)
        for name in fields:
            row.fields[name] = cut(str(row.fields[name]), int(longest[1]))
            self._note(row, f"{name} cut: it is too long")
        return bool(fields)

    def _drop(self, row: Row, refusal: Refusal) -> bool:
        """Leave the field out; a new record that needs it is refused again, for its default."""
        if self._options.on_invalid == "dead":
            return False
        fields = self._invalid(row, refusal)
        for name in fields:
            del row.fields[name]
            self._note(row, f"without {name}: {refusal.code}")
        return bool(fields)

    def _note(self, row: Row, text: str) -> None:
        row.notes.append(text)
        self._log.warning("%s: %s", row.delivery.id, text)

    def _invalid(self, row: Row, refusal: Refusal) -> list[str]:
        """The fields at fault; none where one of them is not the map's: nothing is to be done."""
        found = spelt(refusal.fields, row.fields)
        at_fault = len(found) == len(refusal.fields) and not spelt(self._kept, found)
        return found if at_fault else []

    def _leave_as_created(self, row: Row, refusal: Refusal) -> bool:
        """Leave out what only a new record takes: this one is there already."""
        found = spelt(CREATE_ONLY, spelt(refusal.fields, row.fields))
        for name in found:
            del row.fields[name]
        return bool(found) and len(found) == len(refusal.fields)

    def _match(self, row: Row, refusal: Refusal) -> bool:
        """Update the one record that the duplicate rule found, which gets the key.

        The found record keeps its own values where the row was given defaults. A rule for leads
        may have found a contact: then the row is for the writer of contacts.
        """
        if row.id is not None or len(refusal.matches) != 1:
            return False
        row.id = refusal.matches[0]
        filled = {each for each in row.mended if each[0] == DEFAULTS}
        row.mended -= filled
        for name in spelt([name for _, name in filled], row.fields):
            del row.fields[name]
        kind = PREFIXES.get(row.id[:3], row.kind)
        if self._forgets_ids or kind == row.kind:
            return True
        row.kind = kind
        return False

    def _forget(self, row: Row, _refusal: Refusal) -> bool:
        """A record that was found, and is no more."""
        if row.id is None:
            return False
        row.id = None
        return True


def _tries(way: str, refusal: Refusal) -> set[tuple[str, str]]:
    return {(way, name.casefold()) for name in missing(refusal) or ("",)}


def cut(text: str, length: int) -> str:
    """The text with so many UTF-16 units at the most, which is what Salesforce counts."""
    return text.encode("utf-16-le")[: 2 * length].decode("utf-16-le", errors="ignore")


def spelt(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """Those of the names that are known, as they are spelt there: case tells nothing."""
    folded = {name.casefold(): name for name in known}
    return [folded[name.casefold()] for name in names if name.casefold() in folded]


def missing(refusal: Refusal) -> list[str]:
    """The fields at fault: listed, or in the message alone, `Required … missing: [LastName]`."""
    if refusal.fields:
        return list(refusal.fields)
    found = NAMED.search(refusal.message)
    return [name.strip() for name in found[1].split(",")] if found else []


def values(fields: dict[str, Any]) -> list[Any]:
    """What a message must not quote."""
    return [
        each
        for value in fields.values()
        for each in (value.values() if isinstance(value, dict) else [value])
    ]
