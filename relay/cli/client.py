"""The client of control: one way to the store, whether or not the service runs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import click
import httpx
import orjson

from relay import api, fsutil, ownership
from relay.clock import SystemClock
from relay.config.accounts import user_name
from relay.config.loader import Config
from relay.delivery.null_workers import NoWorkers
from relay.server.sockets import control_address, control_answers
from relay.sources.router import Intake
from relay.spill.disk_guard import Reserve
from relay.store import StoreLocked
from relay.store.sqlite import SqliteStore

ATTEMPTS = 150
"""How often to look for the service, or for a store that nobody holds: a reload takes seconds."""
PAUSE = 0.1
TIMEOUT = 90.0
"""A reload tries out the configuration for up to 60 s before it answers."""

T = TypeVar("T")


class Client:
    """Asks control. `live` says that the service answers, and not this process itself."""

    def __init__(self, http: httpx.AsyncClient, *, live: bool) -> None:
        self._http = http
        self.live = live

    async def get(self, path: str, **query: Any) -> Any:
        given = {name: value for name, value in query.items() if value is not None}
        return await self._answer(self._http.get(path, params=given))

    async def pages(self, path: str, **query: Any) -> AsyncIterator[list[dict[str, Any]]]:
        """The items of a list, page by page."""
        cursor = None
        while True:
            answer = await self.get(path, cursor=cursor, **query)
            if answer["items"]:
                yield answer["items"]
            cursor = answer["next"]
            if cursor is None:
                return

    async def post(self, path: str, **body: Any) -> Any:
        return await self._answer(self._http.post(path, content=orjson.dumps(body)))

    async def _answer(self, request: Awaitable[httpx.Response]) -> Any:
        try:
            response = await request
        except httpx.TransportError as error:
            raise click.ClickException(
                "the relay stopped before it answered; see `relay status` before you ask again"
            ) from error
        if response.is_success:
            return orjson.loads(response.content)
        raise click.ClickException(_detail(response))


def ask(config: Config, question: Callable[[Client], Awaitable[T]]) -> T:
    """Connect, ask, and return the answer."""

    async def asked() -> T:
        async with session(config) as client:
            return await question(client)

    return asyncio.run(asked())


@contextlib.asynccontextmanager
async def session(config: Config) -> AsyncIterator[Client]:
    """A client: of the service while it runs, else of this process, which owns the store then."""
    path = store_file(config)
    become_owner(path)
    async with contextlib.AsyncExitStack() as stack:
        yield await _reach(stack, path, config)


@contextlib.asynccontextmanager
async def service(path: Path) -> AsyncIterator[Client]:
    """A client of the service that owns the store at `path`. Raises OSError where none listens."""
    async with contextlib.AsyncExitStack() as stack:
        yield await _through_service(stack, path)


def part(text: str) -> str:
    """What somebody typed, as one part of a path. Raises ClickException for what names nothing."""
    if not text or "/" in text:
        raise click.ClickException(f"{text!r} is neither a name nor an id")
    return quote(text, safe="")


def has_store(config: Config) -> bool:
    """Whether there is a store to look at; asking makes one."""
    return store_file(config).exists()


def become_owner(path: Path) -> None:
    """Give up root for the owner of the store, who may have planted links beside it."""
    ownership.give_up_root(path)


def store_file(config: Config) -> Path:
    """Where the store is. Raises ClickException where that is no file."""
    if isinstance(config.store, Path):
        return config.store
    raise click.ClickException("the commands work on a store in a file, not yet on PostgreSQL")


def served(path: Path) -> bool:
    """Whether the service runs."""
    try:
        return control_answers(path)
    except PermissionError as error:
        owner = user_name(fsutil.existing(path).stat().st_uid)
        raise click.ClickException(f"the store belongs to {owner}: sudo -u {owner} …") from error


async def _reach(stack: contextlib.AsyncExitStack, path: Path, config: Config) -> Client:
    for _ in range(ATTEMPTS):
        if served(path):
            return await _through_service(stack, path)
        with contextlib.suppress(StoreLocked):
            return await _in_process(stack, path, config)
        await asyncio.sleep(PAUSE)
    raise click.ClickException(
        f"another process holds the store {path}; if that is the relay, it is starting or stopping"
    )


async def _through_service(stack: contextlib.AsyncExitStack, path: Path) -> Client:
    address = stack.enter_context(control_address(path))
    transport = httpx.AsyncHTTPTransport(uds=address)
    return await _client(stack, transport, live=True)


async def _in_process(stack: contextlib.AsyncExitStack, path: Path, config: Config) -> Client:
    clock = SystemClock()
    Reserve.of(config).relieve()
    store = await SqliteStore.open(path, clock=clock)
    stack.push_async_callback(store.close)
    app = api.app(Intake(config, store, clock), store, config, NoWorkers(store))
    return await _client(stack, httpx.ASGITransport(app), live=False)


async def _client(
    stack: contextlib.AsyncExitStack, transport: httpx.AsyncBaseTransport, *, live: bool
) -> Client:
    http = httpx.AsyncClient(
        transport=transport, base_url="http://relay/api/v1", timeout=TIMEOUT, trust_env=False
    )
    return Client(await stack.enter_async_context(http), live=live)


def _detail(response: httpx.Response) -> str:
    try:
        return str(orjson.loads(response.content)["detail"])
    except (ValueError, KeyError, TypeError):
        return f"the relay answered {response.status_code}"
