"""Accounts: what the sinks of one account of a vendor share, and what of it outlives a restart.

Limits are the account's, however many sinks call it: what is used of the quota, a rate limiter, a
sign-in. They are found by a digest of the credentials, which the store never has as a key.
"""

import contextlib
import logging
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Protocol, TypeVar

import orjson

from relay.clock import Clock, SystemClock
from relay.quota import Quota, Usage
from relay.units import Rate

LARGEST = 8_192
"""Bytes of a value that is kept."""
USAGE = "quota"

log = logging.getLogger("relay")
T = TypeVar("T")


class AccountStore(Protocol):
    """Where values of accounts are kept; the store, while the relay runs."""

    async def recall(self, account: str, name: str) -> str | None:
        """The value that was kept last under this name; None where there is none."""

    async def keep(self, account: str, name: str, value: str) -> None:
        """Return when the value is on disk."""


class InMemory:
    """Forgets with the process."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], str] = {}

    async def recall(self, account: str, name: str) -> str | None:
        return self._values.get((account, name))

    async def keep(self, account: str, name: str, value: str) -> None:
        self._values[account, name] = value


class Account:
    """One account; all sinks with its credentials get the same one."""

    def __init__(self, digest: str, store: AccountStore, clock: Clock) -> None:
        self._digest = digest
        self._store = store
        self._clock = clock
        self._usage = Usage()
        self._usage_kept: str | None = None
        self._restored = False
        self._shared: dict[str, Any] = {}
        self._unkept: dict[str, str] = {}

    def quota(
        self, *, share: float = 0.9, daily: int | None = None, burst: Rate | None = None
    ) -> Quota:
        """A quota as in relay.Quota, of which all sinks of the account use together."""
        return Quota(self._clock, share=share, daily=daily, burst=burst, usage=self._usage)

    def shared(self, name: str, make: Callable[[], T]) -> T:
        """What `make` made for the first sink of the account that asked for this name."""
        if name not in self._shared:
            self._shared[name] = make()
        found: T = self._shared[name]
        return found

    async def recall(self, name: str) -> str | None:
        """The text that was kept last under this name, by whichever process of this relay.

        None where there is none, or where the store cannot be read.
        """
        if name in self._unkept:
            return self._unkept[name]
        try:
            return await self._store.recall(self._digest, name)
        except Exception as error:  # noqa: BLE001  no store may keep a sink from its work
            log.error("what is kept of an account cannot be read: %s", error)
            return None

    async def keep(self, name: str, value: str) -> None:
        """Return when the text is on disk, in the store, which only its owner can read.

        What cannot be written now is remembered, and written later. Raises ValueError for more
        than 8,192 bytes.
        """
        if len(value.encode()) > LARGEST:
            raise ValueError(f"no more than {LARGEST} bytes are kept of an account")
        self._unkept[name] = value
        await self._write(name)

    async def restore(self) -> None:
        """Go on with what was used of the quota before the restart."""
        if not self._restored:
            self._restored = True
            if (kept := await self.recall(USAGE)) is not None:
                with contextlib.suppress(ValueError, TypeError, KeyError):  # another release's
                    self._usage.restore(orjson.loads(kept), self._clock)

    async def save(self) -> None:
        """Write what has changed: what is used of the quota, and what could not be kept before."""
        for name in list(self._unkept):
            await self._write(name)
        used = self._usage.to_keep(self._clock)
        text = used and orjson.dumps(used).decode()
        if text and text != self._usage_kept:
            await self.keep(USAGE, text)
            self._usage_kept = text

    async def _write(self, name: str) -> None:
        if (value := self._unkept.get(name)) is None:
            return  # written meanwhile
        try:
            await self._store.keep(self._digest, name, value)
        except Exception as error:  # noqa: BLE001  a full disk may not keep a sink from its work
            log.error("the %s of an account cannot be kept for a restart: %s", name, error)
        else:
            if self._unkept.get(name) == value:
                del self._unkept[name]


class Accounts:
    """The accounts of all sinks of a process."""

    def __init__(
        self,
        store: AccountStore | None = None,
        clock: Clock = SystemClock(),  # noqa: B008  it holds nothing that could be shared
    ) -> None:
        self._store = store or InMemory()
        self._clock = clock
        self._accounts: dict[str, Account] = {}

    def of(self, *credentials: str) -> Account:
        """The account that is used with these: the vendor's name, its address, a token, say."""
        digest = blake2b(orjson.dumps(credentials), digest_size=16, person=b"relay-account")
        found = digest.hexdigest()
        if found not in self._accounts:
            self._accounts[found] = Account(found, self._store, self._clock)
        return self._accounts[found]

    async def restore(self) -> None:
        """Those that were asked for go on with what the store has of them."""
        for account in list(self._accounts.values()):
            await account.restore()

    async def save(self) -> None:
        """Write what has changed since the last time."""
        for account in list(self._accounts.values()):
            await account.save()
