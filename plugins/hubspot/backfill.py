"""The backfill: gives people who are in HubSpot already the key by which events find them.

All of them are read before the first is written. People who share a number are reported, and none
of them gets the key.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from relay import Delivered, Progress, Retry, country, e164
from relay.crm import KeyOwners, Pages, key_of_number

from .client import ApiResponse, Client
from .options import Options
from .records import Record, value
from .upsert import MOST, Writer

PAGE = 100
MOST_PAGES = 500_000
PHONES = ("mobilephone", "phone")
SHOWN = 20
TRIES = 5
PAUSE = 10.0

Sleep = Callable[[float], Awaitable[None]]


class Backfill:
    """Reads all people, and writes the keys of those who have none."""

    def __init__(
        self, client: Client, writer: Writer, options: Options, sleep: Sleep = asyncio.sleep
    ) -> None:
        self._client = client
        self._writer = writer
        self._options = options
        self._sleep = sleep
        self._taken: set[str] = set()
        self._owners = KeyOwners()
        self._unreadable = self._given = 0
        self._failures: set[str] = set()

    async def run(self, progress: Progress) -> list[str]:
        """What was done, in lines. Raises Retry, Reject or Pause."""
        if not key_of_number(self._options.key, "+12125550100", "US"):
            return ["keys: options.key is not made of the mobile number alone, so none were given"]
        await self._read_all(progress)
        owned = [key for key in self._taken if key in self._owners]
        for key in owned:
            self._owners.discard(key)
        await self._write(progress)
        return [*self._told(len(owned))]

    # reading

    async def _read_all(self, progress: Progress) -> None:
        path = self._client.paths.objects(self._options.object)
        asked = {"limit": PAGE, "properties": ",".join([*PHONES, self._options.id_property])}
        read = 0
        pages = Pages(MOST_PAGES)
        while True:
            answer = await self._patiently(self._client.get, path, **asked)
            if not isinstance(answer.body.get("results"), list) or not answer.are_records():
                raise Retry(f"{path}: answered without records")
            results = answer.list("results")
            for result in results:
                self._note(result)
            read += len(results)
            progress(read, None)
            after = answer.next_page()
            if after is None:
                return
            pages.turn(after, len(results))
            asked["after"] = after

    async def _patiently(
        self, ask: Callable[..., Awaitable[ApiResponse]], *args: Any, **named: Any
    ) -> ApiResponse:
        """Nothing else is waiting, so neither a limit nor a broken connection ends it."""
        for tried in range(TRIES):
            answer = await ask(*args, **named)
            if answer.error is None:
                return answer
            outcome = answer.error.outcome()
            if not isinstance(outcome, Retry) or tried == TRIES - 1:
                break
            await self._sleep(outcome.after or PAUSE)
        assert isinstance(outcome, Exception)
        raise outcome

    def _note(self, result: dict[str, Any]) -> None:
        if key := value(result, self._options.id_property):
            self._taken.add(key)
            return
        numbers = [number for name in PHONES if (number := value(result, name))]
        mobiles = (e164(number, self._options.country) for number in numbers)
        mobile = next((each for each in mobiles if each), None)
        if mobile:
            own = country(mobile, self._options.country)
            self._owners.add(key_of_number(self._options.key, mobile, own), str(result["id"]))
        elif numbers:
            self._unreadable += 1

    # writing

    async def _write(self, progress: Progress) -> None:
        """A record is made when its turn comes: those of all people would fill the memory."""
        total = len(self._owners)
        while self._owners:
            people = self._owners.take(MOST)
            await self._write_part(
                [
                    Record(f"backfill-{target}", key, {}, target=target, is_bound=True)
                    for key, target in people
                ]
            )
            progress(total - len(self._owners), total)

    async def _write_part(self, part: Sequence[Record]) -> None:
        for _ in range(TRIES):
            await self._writer.write(part)
            failed = [record for record in part if isinstance(record.outcome, Retry)]
            if not failed:
                break
            await self._sleep(max(_wait(record) for record in failed))
            for record in failed:
                record.outcome = None
        await self._writer.write(part)
        for record in part:
            if isinstance(record.outcome, Delivered):
                self._given += 1
            elif len(self._failures) < SHOWN:
                self._failures.add(str(record.outcome))

    def _told(self, owned: int) -> list[str]:
        lines = [f"keys: {self._given} people were given theirs, {len(self._taken)} had one"]
        several = list(self._owners.shared.values())
        if several:
            shown = "; ".join(", ".join(ids) for ids in several[:SHOWN])
            lines.append(
                f"left to do: {len(several)} numbers stand with several people, who were given "
                f"no key; merge them in HubSpot: {shown}"
            )
        if owned:
            lines.append(f"left to do: the keys of {owned} people are other people's; merge them")
        if self._unreadable:
            lines.append(f"{self._unreadable} people have no number that can be read")
        return [*lines, *sorted(self._failures)]


def _wait(record: Record) -> float:
    """Seconds before it is tried again."""
    return (isinstance(record.outcome, Retry) and record.outcome.after) or PAUSE
