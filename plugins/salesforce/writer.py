"""The writer: rows into one object, by sObject Collections.

One request takes 200 records, says of each what became of it, in their order, and counts as one
call ("sObject Collections", REST guide). A whole request that is refused is halved until the
record at fault is found.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpx
import orjson

import relay
from relay import Log, Outcome, Slices, outcome_of
from relay.crm import STREAK, Action, Rule, distinct_groups

from .errors import RULES, TRIGGERED, own_key
from .mending import REQUIRED, Mender, missing, values
from .refusal import Refusal, errors, gravest, judged, read_json, refusals
from .row import MOST_ROWS, Row, body, encoded, packed
from .session import Session
from .target import Target

DUPLICATES = "DUPLICATES_DETECTED"
NO_ID = "answered without the record's id"
NO_WORD = "answered without a word about this record"


class Writer:
    """Writes rows of one target; `headers` go with every request, `rules` before the usual.

    `mapped` names the fields that the map fills: where one of them is missing, its value was blank
    or invalid, and no setting is wrong.
    """

    def __init__(
        self,
        session: Session,
        target: Target,
        mender: Mender | None,
        log: Log,
        headers: Mapping[str, str] | None = None,
        rules: tuple[Rule, ...] = (),
        mapped: Iterable[str] = (),
    ) -> None:
        self._session = session
        self._target = target
        self._mender = mender
        self._log = log
        self._headers = headers or {}
        self._rules = (*rules, *RULES)
        if target.external_id:
            self._rules = (own_key(target.external_id), *self._rules)
        self._mapped = {name.casefold() for name in mapped}
        self._most = MOST_ROWS

    async def write(self, rows: Sequence[Row]) -> None:
        """Give each row its outcome; Delivered has the record's id. Raises nothing of its own."""
        waiting = list(rows)
        while waiting:  # it ends: a row is mended once in each way
            for wave in distinct_groups(waiting, Row.identity):
                await self._write_wave(wave)
            for row in waiting:
                if self._lacks_match(row):
                    await self._write_alone(row)
            waiting = [row async for row in self._mended(waiting)]

    async def _mended(self, rows: Sequence[Row]) -> AsyncIterator[Row]:
        """Those that go once more."""
        slices = Slices()
        for row in rows:
            if self._is_mended(row):
                yield row
            await slices.rest()

    def _lacks_match(self, row: Row) -> bool:
        """Whether a duplicate rule found somebody, and the answer does not say whom."""
        return (
            self._mender is not None
            and self._mender.use_match
            and row.id is None
            and any(each.code == DUPLICATES and not each.matches for each in row.refusals)
        )

    async def _write_alone(self, row: Row) -> None:
        """Upsert it by a request of its own, the answer to which does say it.

        "Upsert a Record Using an External ID", REST guide; the body must not hold the key.
        """
        target = self._target
        try:
            response = await self._session.request(
                "PATCH",
                f"sobjects/{target.object}/{target.external_id}/{quote(row.key, safe='')}",
                content=orjson.dumps(row.fields),
                headers=self._headers,
            )
        except (httpx.HTTPError, httpx.InvalidURL, relay.Retry, relay.Pause) as error:
            row.refusals, row.outcome = [], outcome_of(error, 0.0)
            return
        if response.is_success:
            row.refusals, row.outcome = [], _delivered(read_json(response))
        else:
            row.refusals = refusals(response)

    def _is_mended(self, row: Row) -> bool:
        """Whether the row goes once more; if not, its refusals are its outcome."""
        if not row.refusals:
            return False
        if self._mender and self._mender.mend(row):
            row.refusals = []
            return True
        row.outcome = self._judged(row)
        row.refusals = []
        return False

    def _judged(self, row: Row) -> Outcome:
        outcome = judged(row.refusals, self._rules, values(row.fields), row.delivery.attempt)
        if isinstance(outcome, relay.Reject) and self._lacks_only_values(row):
            outcome.status = None  # nothing that a pause could mend
        return outcome

    def _lacks_only_values(self, row: Row) -> bool:
        """Whether all that the row lacks is in the map."""
        lacking = [each for each in row.refusals if each.code == REQUIRED]
        names = {name.casefold() for each in lacking for name in missing(each)}
        return bool(names) and names <= self._mapped

    async def _write_wave(self, rows: Sequence[Row]) -> None:
        groups: dict[tuple[str, str], list[tuple[Row, bytes]]] = {}
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

    async def _write_request(self, request: Sequence[tuple[Row, bytes]]) -> None:
        """Send these rows together, and in halves what cannot be told or done together."""
        rows = [row for row, _ in request]
        for row in rows:
            row.refusals = []
        method, path = self._target.request(rows[0])
        try:
            response = await self._session.request(
                method,
                path,
                content=body([record for _, record in request]),
                headers=self._headers,
            )
            results = self._results(response, len(rows))
        except (httpx.HTTPError, httpx.InvalidURL, relay.Retry, relay.Pause) as error:
            _end(rows, outcome_of(error, 0.0))
            return
        if isinstance(results, list):
            pairs = zip(request, results, strict=True)
            again = [each for each, result in pairs if self._goes_again(each[0], result, rows)]
        else:
            again = list(request) if self._is_of_one(results, rows) else []
        self._send_fewer([row for row, _ in again], len(rows))
        await self._write_halves(again)

    def _results(self, response: httpx.Response, expected: int) -> list[Any] | tuple[Refusal, ...]:
        """A result for each row, or the refusals of the whole as a tuple."""
        if not response.is_success:
            return tuple(refusals(response))
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
        row.refusals = errors(told.get("errors"))
        if not row.refusals:
            row.outcome = relay.Retry(NO_WORD)
            return False
        rule, _ = gravest(row.refusals, self._rules)
        return rule.action is Action.SPLIT and len(rows) > 1

    def _is_of_one(self, found: Sequence[Refusal], rows: Sequence[Row]) -> bool:
        """Whether a refusal of all may be the fault of one, so that it is to be looked for."""
        rule, _ = gravest(found, self._rules)
        of_one = rule.action in {Action.DEAD, Action.FIX, Action.SPLIT}
        for row in rows:
            row.refusals = list(found)
        return of_one and len(rows) > 1

    async def _write_halves(self, request: list[tuple[Row, bytes]]) -> None:
        if len(request) < 2:
            for each in request:
                await self._write_request([each])
            return
        middle = len(request) // 2
        first, second = request[:middle], request[middle:]
        await self._write_request(first)
        # So many refused, and none taken: so would be the others.
        if len(first) >= STREAK and (reason := self._all_refused(row for row, _ in first)):
            _end([row for row, _ in second], relay.Pause(f"each record is refused: {reason}"))
            return
        await self._write_request(second)

    def _all_refused(self, rows: Any) -> str:
        """Why none was taken, where settings are at fault; empty where one was, or may yet be."""
        reason = ""
        for row in rows:
            outcome = self._judged(row) if row.refusals else row.outcome
            if not isinstance(outcome, relay.Reject | relay.Pause):
                return ""
            if isinstance(outcome, relay.Reject) and outcome.status is None and not _unread(row):
                return ""  # its own values are at fault
            reason = outcome.reason
        return reason

    def _send_fewer(self, rows: Sequence[Row], sent: int) -> None:
        """Triggers that do too much for this many records would do so in every batch."""
        codes = {refusal.code for row in rows for refusal in row.refusals}
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
    return any(each.code == "JSON_PARSER_ERROR" for each in row.refusals)


def _delivered(result: Any) -> Outcome:
    """What was written, by its id."""
    known = result.get("id") if isinstance(result, dict) else None
    return relay.Delivered(known) if isinstance(known, str) else relay.Retry(NO_ID)


def _end(rows: Sequence[Row], outcome: Outcome) -> None:
    for row in rows:
        row.refusals, row.outcome = [], outcome
