"""Upserts rows into one object by sObject Collections, and repairs those that are refused.

One request takes 200 records, says of each what became of it, in their order, and counts as one
call ("sObject Collections", REST guide). A request that is refused as a whole is bisected until
the record at fault is found. Each way to repair a row is tried once for each field: Salesforce
may name one after the other.
"""

import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpx
import orjson

import relay
from relay import Log, NotDelivered, Outcome, Slices, outcome_of
from relay.crm import Action, Bisection, Rule, distinct_groups, halves

from .client import Client
from .errors import (
    GONE,
    INVALID,
    RULES,
    TOO_LONG,
    TRIGGERED,
    ApiError,
    api_errors,
    most_severe,
    outcome_of_errors,
    own_key,
    parse_errors,
    read_json,
)
from .options import PREFIXES, RepairOptions
from .records import MOST_ROWS, Row, Target, body, encoded, packed

REQUIRED = "REQUIRED_FIELD_MISSING"
DEFAULTS = "defaults"
NAMED = re.compile(r"\[([^\[\]]*)\]")
LONGEST = re.compile(r"max length=(\d+)")
NOT_WRITABLE = "INVALID_FIELD_FOR_INSERT_UPDATE"
CREATE_ONLY = ("TaskSubtype",)
"""Fields that a new record may say, and no update ("Task", object reference)."""


class Repair:
    """Repairs refused rows of one object, as far as the options allow.

    With `forgets_ids`, a row of a deleted record gets a new one. `kept` are fields without which
    no record is to be written.
    """

    def __init__(
        self,
        options: RepairOptions,
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

    def apply(self, row: Row) -> bool:
        """Whether all that was refused is mended, so that the row may go once more."""
        ways = [self._ways.get(error.code) for error in row.api_errors]
        if not ways or None in ways:
            return False
        chosen = [(way, each) for way, each in zip(ways, row.api_errors, strict=True) if way]
        tries = {each for way, error in chosen for each in _tries(way[0], error)}
        if tries & row.repairs:
            return False
        row.repairs |= tries
        repairs = [way[1](row, error) for way, error in chosen]
        return all(repairs)

    def _fill(self, row: Row, error: ApiError) -> bool:
        """The default of each field that is missing."""
        names = missing(error)
        found = spelt(names, self._options.defaults)
        row.fields |= {name: self._options.defaults[name] for name in found}
        return bool(names) and len(found) == len(names)

    def _shorten(self, row: Row, error: ApiError) -> bool:
        longest = LONGEST.search(error.message)
        if self._options.on_invalid != "truncate" or longest is None:
            return self._drop(row, error)
        fields = self._invalid(row, error)
        for name in fields:
            row.fields[name] = cut(str(row.fields[name]), int(longest[1]))
            self._note(row, f"{name} cut: it is too long")
        return bool(fields)

    def _drop(self, row: Row, error: ApiError) -> bool:
        """Leave the field out; a new record that needs it is refused again, for its default."""
        if self._options.on_invalid == "dead":
            return False
        fields = self._invalid(row, error)
        for name in fields:
            del row.fields[name]
            self._note(row, f"without {name}: {error.code}")
        return bool(fields)

    def _note(self, row: Row, text: str) -> None:
        row.notes.append(text)
        self._log.warning("%s: %s", row.delivery.id, text)

    def _invalid(self, row: Row, error: ApiError) -> list[str]:
        """The fields at fault; none where one of them is not the map's: nothing is to be done."""
        found = spelt(error.fields, row.fields)
        at_fault = len(found) == len(error.fields) and not spelt(self._kept, found)
        return found if at_fault else []

    def _leave_as_created(self, row: Row, error: ApiError) -> bool:
        """Leave out what only a new record takes: this one is there already."""
        found = spelt(CREATE_ONLY, spelt(error.fields, row.fields))
        for name in found:
            del row.fields[name]
        return bool(found) and len(found) == len(error.fields)

    def _match(self, row: Row, error: ApiError) -> bool:
        """Update the one record that the duplicate rule found, which gets the key.

        The found record keeps its own values where the row was given defaults. A rule for leads
        may have found a contact: then the row is for the writer of contacts.
        """
        if row.id is not None or len(error.matches) != 1:
            return False
        row.id = error.matches[0]
        filled = {each for each in row.repairs if each[0] == DEFAULTS}
        row.repairs -= filled
        for name in spelt([name for _, name in filled], row.fields):
            del row.fields[name]
        kind = PREFIXES.get(row.id[:3], row.kind)
        if self._forgets_ids or kind == row.kind:
            return True
        row.kind = kind
        return False

    def _forget(self, row: Row, error: ApiError) -> bool:  # noqa: ARG002  one shape for all ways
        """A record that was found, and is no more."""
        if row.id is None:
            return False
        row.id = None
        return True


def _tries(way: str, error: ApiError) -> set[tuple[str, str]]:
    return {(way, name.casefold()) for name in missing(error) or ("",)}


def cut(text: str, length: int) -> str:
    """The text with so many UTF-16 units at the most, which is what Salesforce counts."""
    return text.encode("utf-16-le")[: 2 * length].decode("utf-16-le", errors="ignore")


def spelt(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """The known ones of the names, in their known spelling: they do not differ by case."""
    folded = {name.casefold(): name for name in known}
    return [folded[name.casefold()] for name in names if name.casefold() in folded]


def missing(error: ApiError) -> list[str]:
    """The fields at fault: listed, or in the message alone, `Required … missing: [LastName]`."""
    if error.fields:
        return list(error.fields)
    found = NAMED.search(error.message)
    return [name.strip() for name in found[1].split(",")] if found else []


def values(fields: dict[str, Any]) -> list[Any]:
    """What a message must not quote."""
    return [
        each
        for value in fields.values()
        for each in (value.values() if isinstance(value, dict) else [value])
    ]


DUPLICATES = "DUPLICATES_DETECTED"
NO_ID = "answered without the record's id"
NO_WORD = "answered without a word about this record"


Encoded = tuple[Row, bytes]
"""A row, and its record in JSON."""


class Writer:
    """Writes rows of one target; `headers` go with every request, `rules` before the usual.

    `mapped` names the fields that the map fills: where one of them is missing, its value was blank
    or invalid, and no setting is wrong.
    """

    def __init__(
        self,
        client: Client,
        target: Target,
        repair: Repair | None,
        log: Log,
        headers: Mapping[str, str] | None = None,
        rules: tuple[Rule, ...] = (),
        mapped: Iterable[str] = (),
    ) -> None:
        self._client = client
        self._target = target
        self._repair = repair
        self._log = log
        self._headers = headers or {}
        self._rules = (*rules, *RULES)
        if target.external_id:
            self._rules = (own_key(target.external_id), *self._rules)
        self._mapped = {name.casefold() for name in mapped}
        self._most = MOST_ROWS

    async def write(self, rows: Sequence[Row]) -> None:
        """Give each row its outcome; Delivered has the record's id. Raises nothing."""
        waiting = list(rows)
        while waiting:  # it ends: a row is mended once in each way
            for wave in distinct_groups(waiting, Row.identity):
                await self._write_wave(wave)
            for row in waiting:
                if self._lacks_match(row):
                    await self._write_alone(row)
            waiting = [row async for row in self._repaired(waiting)]

    async def _repaired(self, rows: Sequence[Row]) -> AsyncIterator[Row]:
        """Those that go once more."""
        slices = Slices()
        for row in rows:
            if self._is_repaired(row):
                yield row
            await slices.rest()

    def _lacks_match(self, row: Row) -> bool:
        """Whether a duplicate rule found a record that the answer does not name."""
        return (
            self._repair is not None
            and self._repair.use_match
            and row.id is None
            and any(each.code == DUPLICATES and not each.matches for each in row.api_errors)
        )

    async def _write_alone(self, row: Row) -> None:
        """Upsert it by a separate request, with an answer that names the record.

        "Upsert a Record Using an External ID", REST guide; the body must not hold the key.
        """
        target = self._target
        try:
            response = await self._client.request(
                "PATCH",
                f"sobjects/{target.object}/{target.external_id}/{quote(row.key, safe='')}",
                content=orjson.dumps(row.fields),
                headers=self._headers,
            )
        except (httpx.HTTPError, httpx.InvalidURL, relay.Retry, relay.Pause) as error:
            row.api_errors, row.outcome = [], outcome_of(error, 0.0)
            return
        if response.is_success:
            row.api_errors, row.outcome = [], _delivered(read_json(response))
        else:
            row.api_errors = api_errors(response)

    def _is_repaired(self, row: Row) -> bool:
        """Whether the row goes once more; if not, its refusals are its outcome."""
        if not row.api_errors:
            return False
        if self._repair and self._repair.apply(row):
            row.api_errors = []
            return True
        row.outcome = self._outcome_of(row)
        row.api_errors = []
        return False

    def _outcome_of(self, row: Row) -> Outcome:
        outcome = outcome_of_errors(
            row.api_errors, self._rules, values(row.fields), row.delivery.attempt
        )
        if isinstance(outcome, relay.Reject) and self._lacks_only_values(row):
            outcome.status = None  # nothing that a pause could mend
        return outcome

    def _lacks_only_values(self, row: Row) -> bool:
        """Whether all that the row lacks is in the map."""
        lacking = [each for each in row.api_errors if each.code == REQUIRED]
        names = {name.casefold() for each in lacking for name in missing(each)}
        return bool(names) and names <= self._mapped

    async def _write_wave(self, rows: Sequence[Row]) -> None:
        groups: dict[tuple[str, str], list[Encoded]] = {}
        for row in rows:
            try:
                record = encoded(self._target.record(row))
            except relay.Reject as reject:
                row.outcome = reject
            else:
                groups.setdefault(self._target.request(row), []).append((row, record))
        for group in groups.values():
            for request in packed(group, self._most):
                await self._write_request(request)

    async def _write_request(self, request: Sequence[Encoded]) -> None:
        """Send these rows together, and in parts what cannot be read or done together."""
        parts = Bisection(request, len(request))
        while parts:
            part = parts.next()
            again = await self._send(part)
            parts.put(halves(again))
            if parts:
                self._note(parts, [row for row, _ in part])
            if parts and parts.hopeless:
                reason = f"each record is refused: {self._reason(part[-1][0])}"
                _end([row for row, _ in parts.rest()], relay.Pause(reason))
                return

    async def _send(self, request: Sequence[Encoded]) -> list[Encoded]:
        """Send these rows in one request. Returns those that are to be sent with fewer others."""
        rows = [row for row, _ in request]
        for row in rows:
            row.api_errors = []
        method, path = self._target.request(rows[0])
        try:
            response = await self._client.request(
                method,
                path,
                content=body([record for _, record in request]),
                headers=self._headers,
            )
            results = self._results(response, len(rows))
        except (httpx.HTTPError, httpx.InvalidURL, relay.Retry, relay.Pause) as error:
            _end(rows, outcome_of(error, 0.0))
            return []
        if isinstance(results, list):
            pairs = zip(request, results, strict=True)
            again = [each for each, result in pairs if self._goes_again(each[0], result, rows)]
        else:
            again = list(request) if self._is_of_one(results, rows) else []
        self._send_fewer([row for row, _ in again], len(rows))
        return again

    def _results(self, response: httpx.Response, expected: int) -> list[Any] | tuple[ApiError, ...]:
        """A result for each row, or the refusals of the whole as a tuple."""
        if not response.is_success:
            return tuple(api_errors(response))
        results = read_json(response)
        if not isinstance(results, list) or len(results) != expected:
            raise relay.Retry(NO_WORD)
        return results

    def _goes_again(self, row: Row, result: Any, rows: Sequence[Row]) -> bool:
        """Note what became of a row; True if it is to be sent again with fewer others."""
        told = result if isinstance(result, dict) else {}
        if told.get("success") is True:
            row.outcome = _delivered(told)
            return False
        row.api_errors = parse_errors(told.get("errors"))
        if not row.api_errors:
            row.outcome = relay.Retry(NO_WORD)
            return False
        rule, _ = most_severe(row.api_errors, self._rules)
        return rule.action is Action.SPLIT and len(rows) > 1

    def _is_of_one(self, found: Sequence[ApiError], rows: Sequence[Row]) -> bool:
        """Whether a refusal of all may be the fault of one, so that it is to be looked for."""
        rule, _ = most_severe(found, self._rules)
        of_one = rule.action in {Action.DEAD, Action.FIX, Action.SPLIT}
        for row in rows:
            row.api_errors = list(found)
        return of_one and len(rows) > 1

    def _note(self, parts: Bisection[Encoded], rows: Sequence[Row]) -> None:
        """Count the rows that settings keep from being written, and whether others were not."""
        waiting = {row for row, _ in parts.rest()}
        ended = [row for row in rows if row not in waiting]
        refused = sum(map(self._is_misconfigured, ended))
        parts.note(accepted=refused < len(ended), refused=refused)

    def _is_misconfigured(self, row: Row) -> bool:
        """Whether a row was refused for what may be a mistake in settings, not its own values."""
        outcome = self._outcome_of(row) if row.api_errors else row.outcome
        if isinstance(outcome, relay.Reject):
            return outcome.status is not None or _unread(row)
        return isinstance(outcome, relay.Pause)

    def _reason(self, row: Row) -> str:
        outcome = self._outcome_of(row) if row.api_errors else row.outcome
        return outcome.reason if isinstance(outcome, NotDelivered) else ""

    def _send_fewer(self, rows: Sequence[Row], sent: int) -> None:
        """Triggers that do too much for this many records would do so in every batch."""
        codes = {error.code for row in rows for error in row.api_errors}
        if codes & TRIGGERED and self._most > sent // 2:
            self._most = max(1, sent // 2)
            self._log.warning(
                "%s: triggers exceed a limit of the org with %d records together: %d at most go"
                " together from now on",
                self._target.object,
                sent,
                self._most,
            )


def _unread(row: Row) -> bool:
    """Whether Salesforce could not read the row: the map makes values of a wrong type."""
    return any(each.code == "JSON_PARSER_ERROR" for each in row.api_errors)


def _delivered(result: Any) -> Outcome:
    """What was written, by its id."""
    known = result.get("id") if isinstance(result, dict) else None
    return relay.Delivered(known) if isinstance(known, str) else relay.Retry(NO_ID)


def _end(rows: Sequence[Row], outcome: Outcome) -> None:
    for row in rows:
        row.api_errors, row.outcome = [], outcome
