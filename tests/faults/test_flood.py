"""A flood of callbacks with a wrong token beside a few of the vendor's, whose token is mistyped."""

import asyncio
import contextlib
import re
import time
from pathlib import Path
from statistics import median

import pytest
from listening import QUERIES, answers
from relays import POLL, RUN, Relay

pytestmark = [pytest.mark.alone, pytest.mark.timeout(180)]

RATE = 200
"""Requests a second."""
BURST = 0.05
VENDOR = "127.0.0.3"
AT_ONCE = 15
"""Callbacks that the vendor sends at once beside the flood. The relay lets 1000 of all with a wrong
token pass, and then 1000 a minute: where the flood has taken all, so many pass together only after
0.84 s in which the flood took none."""
ROUNDS = 5
GOOD = 69
"""Callbacks with the right token in a period. The longest wait of one period of two is above the
99th percentile: the median over the periods shows that, and no standstill of the machine in a few
of them."""
MOST_PERIODS = 11
"""Where the flood seems to hold them up, so many periods decide."""
UNSHARED = ("-m", "unshared", "run")


def request(token: str, *, last: bool) -> bytes:
    return b"GET /callbacks/sumotext/%s?%s HTTP/1.1\r\nHost: relay\r\n%s\r\n" % (
        token.encode(),
        QUERIES[0].replace(b" ", b"+"),
        b"Connection: close\r\n" if last else b"",
    )


async def ask(port: int, token: str, sender: str, number: int = 1) -> list[int]:
    """The statuses that so many requests get, which come at once on one connection."""
    address = (sender, 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=address)
    try:
        writer.write(request(token, last=False) * (number - 1) + request(token, last=True))
        return [answer.status for answer in answers(await reader.read())]
    finally:
        writer.transport.abort()


@contextlib.asynccontextmanager
async def flooding(port: int, senders: list[str], found: list[int]):
    """Wrong tokens while the block runs, from each of the senders in turn."""
    over = asyncio.Event()

    async def flood() -> None:
        turn = 0
        start = time.monotonic()
        while not over.is_set():
            found.extend(
                await ask(port, "guess", senders[turn % len(senders)], round(RATE * BURST))
            )
            turn += 1
            await asyncio.sleep(max(0.0, start + turn * BURST - time.monotonic()))

    async with asyncio.TaskGroup() as group:
        group.create_task(flood())
        yield
        over.set()


async def longest_wait(port: int) -> float:
    """The longest that any of some callbacks with the right token waits for its answer."""
    waits = []
    for _ in range(GOOD):
        start = time.monotonic()
        assert await ask(port, "right-token", "127.0.0.1") == [200]
        waits.append(time.monotonic() - start)
        await asyncio.sleep(0.02)
    return max(waits)


def memory(relay: Relay) -> float:
    status = Path(f"/proc/{relay.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


class Outcome:
    """What the senders saw, and what is kept."""

    def __init__(self) -> None:
        self.flood: list[int] = []
        self.calm: list[float] = []
        self.waits: list[float] = []
        """The longest of each period, without the flood and beside it."""
        self.early: list[int] = []
        self.late: list[int] = []
        self.kept: list[str] = []
        self.lines = 0
        self.grown = 0.0
        self.seconds = 0.0

    def refused(self) -> int:
        """How many of the flood were."""
        return self.flood.count(429)

    def good_are_served(self) -> bool:
        """Whether they wait below 100 ms; on a slow machine, four times as long as without."""
        return median(self.waits) < max(0.1, 4 * median(self.calm))


async def under_flood(
    folder, seconds: float, senders: list[str], command=RUN, rounds: int = ROUNDS
) -> Outcome:
    """One callback of the vendor's before a flood, and some in each round at its end.

    The flood comes and goes, so that each wait beside it has one without it to compare. It lasts
    for so many seconds in all, and on a slow machine until it has sent enough. Each round begins
    when the relay has just refused one of the flood. The last one is the first in which it refuses
    the vendor.
    """
    relay = Relay(folder, archive=False, command=command)
    text = relay.config.read_text().replace("{limit:", "{tokens: [right-token], limit:")
    relay.config.write_text(text)
    outcome = Outcome()
    begun = time.monotonic()
    await relay.start()
    try:
        before = memory(relay)
        outcome.early = await ask(relay.port, "right-tokne", VENDOR)
        lasted = 0.0
        while (
            lasted < seconds
            or len(outcome.flood) < 0.6 * RATE * seconds
            or (not outcome.good_are_served() and len(outcome.waits) < MOST_PERIODS)
        ):
            outcome.calm.append(await longest_wait(relay.port))
            start = time.monotonic()
            async with flooding(relay.port, senders, outcome.flood):
                outcome.waits.append(await longest_wait(relay.port))
            lasted += time.monotonic() - start
        async with flooding(relay.port, senders, outcome.flood):
            for _ in range(rounds):
                refused = outcome.refused()
                while outcome.refused() == refused:
                    await asyncio.sleep(POLL)
                outcome.late += await ask(relay.port, "right-tokne", VENDOR, AT_ONCE)
                if 429 in outcome.late:
                    break
            # A sender that is refused is served on, too, as the good one is.
            await longest_wait(relay.port)
        outcome.grown = memory(relay) - before
        async with relay.control() as control:
            rows = (await control.get("/quarantine", params={"limit": 1000})).json()["items"]
            outcome.kept = [row.get("sender") for row in rows]
        assert await relay.stop() == 0
        outcome.seconds = time.monotonic() - begun
        outcome.lines = relay.log.read_text().count("refused with")
    finally:
        relay.close()
    print(
        f"{len(outcome.flood)} of the flood in {outcome.seconds:.1f} s,"
        f" {outcome.flood.count(401)} answered 401;"
        f" {outcome.late.count(401)} of {len(outcome.late)} late ones of the vendor's, too;"
        f" {outcome.kept.count(VENDOR)} of the vendor's kept;"
        f" good ones wait {milliseconds(outcome.waits)} ms"
        f" ({milliseconds(outcome.calm)} without the flood);"
        f" memory {outcome.grown:+.1f} MiB; {outcome.lines} lines"
    )
    assert set(outcome.flood) == {401, 429}
    assert outcome.early == [401]
    assert len(outcome.kept) <= 1000
    return outcome


def milliseconds(waits: list[float]) -> str:
    return " ".join(f"{1e3 * wait:.0f}" for wait in waits)


def unharmed(outcome: Outcome, rounds: int = ROUNDS) -> None:
    assert outcome.late == [401] * AT_ONCE * rounds
    assert outcome.kept.count(VENDOR) == 1 + len(outcome.late)
    assert outcome.good_are_served()
    assert outcome.grown < 100
    # One for the first of a kind and one a minute: the 401s, the 429s, and those left at the end.
    assert outcome.lines <= 4 + 2 * (outcome.seconds // 60)


async def test_a_flood_from_one_address_drives_out_none_of_the_vendors(tmp_path):
    unharmed(await under_flood(tmp_path, 8, ["127.0.0.2"]))


async def test_control_without_shares_it_drives_out_all(tmp_path):
    outcome = await under_flood(tmp_path, 8, ["127.0.0.2"], UNSHARED)
    assert 429 in outcome.late
    # The early one is gone: the flood has had 1000 since.
    assert outcome.kept.count(VENDOR) == outcome.late.count(401)


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("addresses", "rounds"), [(1, ROUNDS), (50, 1)])
async def test_neither_does_a_longer_one_from_many_addresses(tmp_path, addresses, rounds):
    """Beside 50 others, the vendor's share of what is kept is 19."""
    senders = [f"127.0.1.{1 + number}" for number in range(addresses)]
    outcome = await under_flood(tmp_path, 100, senders, rounds=rounds)
    unharmed(outcome, rounds)
    assert len(outcome.kept) == 1000
