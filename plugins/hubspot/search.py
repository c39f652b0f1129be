"""The search for phone numbers, in HubSpot's own, which lags behind by some moments."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

import relay
from relay import Rate, StrictLimiter, SystemClock, e164, national
from relay.crm import Pages

from .options import Options
from .problem import no_word
from .record import value
from .session import Session
from .writer import blocked

SEARCHES = Rate(5, 1.0)
"""HubSpot allows so many to all of an account's apps together."""
PAGE = 200
MOST_PAGES = 10_000 // PAGE
"""HubSpot's search gives no more results than that."""
LONGEST = 3_000
"""Characters of a question (HubSpot's search guide)."""
LATER_PAGE = len(b',"after":"10000"')
PHONES = {
    "phone": "hs_searchable_calculated_phone_number",
    "mobilephone": "hs_searchable_calculated_mobile_number",
}
Result = dict[str, Any]


class PhoneSearch:
    """Finds the contacts that have a number, however it is written."""

    def __init__(self, session: Session, options: Options, account: relay.Account) -> None:
        self._session = session
        self._path = session.paths.objects(options.object, "search")
        self._country = options.country
        self._searches = account.shared("searches", make_limiter)

    async def find(
        self, mobiles: Collection[str], properties: Sequence[str] = ()
    ) -> Mapping[str, dict[str, Result]]:
        """All that have one of the numbers: by number, and by id. Raises Retry or Pause."""
        found: dict[str, dict[str, Result]] = defaultdict(dict)
        numbers = sorted({national(mobile) or mobile for mobile in mobiles})
        for content in questions(numbers, list(dict.fromkeys([*properties, *PHONES]))):
            await self._read(content, frozenset(mobiles), found)
        return found

    async def _read(
        self,
        content: dict[str, Any],
        mobiles: frozenset[str],
        found: dict[str, dict[str, Result]],
    ) -> None:
        """All the pages of one question."""
        pages = Pages(MOST_PAGES)
        while True:
            async with self._searches.turn():
                answer = await self._session.post(self._path, content)
            is_told = "total" in answer.body and answer.are_records()
            problem = answer.problem or (None if is_told else no_word())
            if problem:
                raise blocked(problem)
            results = answer.list("results")
            for result in results:
                for mobile in self.numbers(result) & mobiles:
                    found[mobile][str(result["id"])] = result
            after = answer.next_page()
            if after is None:
                return
            pages.turn(after, len(results))
            content["after"] = after

    def numbers(self, result: Result) -> set[str]:
        """Its numbers in E.164: what the search compares has no country."""
        numbers = (e164(value(result, name), self._country) for name in PHONES)
        return {number for number in numbers if number}


def make_limiter() -> StrictLimiter:
    """For all searches in an account."""
    return StrictLimiter(SEARCHES, SystemClock())


def questions(numbers: Iterable[str], properties: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What to ask for these numbers, in as few questions as HubSpot's limit of length allows."""
    empty = len(orjson.dumps(_question([], properties))) + LATER_PAGE
    room = left = (LONGEST - empty) // len(PHONES)
    part: list[str] = []
    for number in numbers:
        length = len(orjson.dumps(number)) + 1
        if part and length > left:
            yield _question(part, properties)
            part, left = [], room
        part.append(number)
        left -= length
    if part:
        yield _question(part, properties)


def _question(numbers: list[str], properties: Sequence[str]) -> dict[str, Any]:
    groups = [
        {"filters": [{"propertyName": name, "operator": "IN", "values": numbers}]}
        for name in PHONES.values()
    ]
    return {"filterGroups": groups, "properties": list(properties), "limit": PAGE}
