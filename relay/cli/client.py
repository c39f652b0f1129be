"""The client of the API: through the running relay, or on the store in this process."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode

import click
import orjson

from relay import ownership
from relay.api import ROOT
from relay.cli import control, load
from relay.cli.output import progress
from relay.state_directory import StateDirectory

if TYPE_CHECKING:
    from relay.config.loader import Config

ATTEMPTS = 150
"""Attempts to reach the service, or to lock the store: a reload takes seconds."""
PAUSE = 0.1
JOB_PAUSE = 0.1

T = TypeVar("T")

Send = Callable[[str, str, bytes], Coroutine[Any, Any, tuple[int, bytes]]]
"""Sends a method, a path and a body; returns the status and the body of the answer."""


class ApiClient:
    """A client of the API. `live`: the running relay answers, not this process."""

    def __init__(self, send: Send, *, live: bool) -> None:
        self._send = send
        self.live = live

    async def get(self, path: str, **query: Any) -> Any:
        given = {name: _text(value) for name, value in query.items() if value is not None}
        return await self._answer("GET", f"{path}?{urlencode(given)}" if given else path, b"")

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
        return await self._answer("POST", path, orjson.dumps(body))

    async def _answer(self, method: str, path: str, body: bytes) -> Any:
        return control.decode(*await self._send(method, f"{ROOT}{path}", body))


def ask(config: "Config", question: Callable[[ApiClient], Awaitable[T]]) -> T:
    """Connect, ask, and return the answer."""

    async def asked() -> T:
        async with session(config) as client:
            return await question(client)

    return asyncio.run(asked())


@contextlib.asynccontextmanager
async def session(config: "Config") -> AsyncIterator[ApiClient]:
    """A client: of the service while it runs, else of this process, which owns the store then."""
    become_owner(store_file(config))
    async with contextlib.AsyncExitStack() as stack:
        yield await _reach(stack, config)


def service(state: StateDirectory) -> ApiClient:
    """A client of the service that has this state directory."""
    return ApiClient(_through_socket(state), live=True)


def part(text: str) -> str:
    """An argument as one segment of a path. Raises ClickException for one that cannot be a name."""
    if not text or "/" in text:
        raise click.ClickException(f"{text!r} is neither a name nor an id")
    return quote(text, safe="")


def has_store(config: "Config") -> bool:
    """Whether there is a store to look at; asking makes one."""
    return store_file(config).exists()


def become_owner(path: Path) -> None:
    """Give up root for the owner of the store, who may have planted links beside it."""
    ownership.give_up_root(path)


def store_file(config: "Config") -> Path:
    """Where the store is. Raises ClickException where that is no file."""
    if isinstance(config.store, Path):
        return config.store
    raise click.ClickException("the commands work on a store in a file, not yet on PostgreSQL")


async def wait_for_job(session: ApiClient, path: str, what: str, **body: Any) -> dict[str, Any]:
    """Start a job, show its progress until it ends, return its result."""
    number = (await session.post(path, **body))["job"]
    with progress(None, what) as bar:
        while True:
            job = await session.get(f"/jobs/{number}")
            if job["error"] is not None:
                raise click.ClickException(job["error"])
            if job["result"] is not None:
                result: dict[str, Any] = job["result"]
                return result
            bar.update(
                bar.task_ids[0],
                completed=job["done"],
                total=job["total"],
                description=job["doing"] or what,
            )
            await asyncio.sleep(JOB_PAUSE)


async def _reach(stack: contextlib.AsyncExitStack, config: "Config") -> ApiClient:
    for _ in range(ATTEMPTS):
        if control.served(config.state):
            return service(config.state)
        connection = load("relay.cli.local").connection(config)
        client: ApiClient | None = await stack.enter_async_context(connection)
        if client is not None:
            return client
        await asyncio.sleep(PAUSE)
    raise click.ClickException(
        f"another process holds the store {config.store};"
        " if that is the relay, it is starting or stopping"
    )


def _through_socket(state: StateDirectory) -> Send:
    """Sends each request through a new connection to the control socket."""

    async def send(method: str, path: str, body: bytes) -> tuple[int, bytes]:
        with control.answers_expected():
            with state.control_address() as address:
                reader, writer = await asyncio.open_unix_connection(address)
            with contextlib.closing(writer):
                writer.write(control.encode(method, path, body))
                return await _received(reader)

    return send


async def _received(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The status and the body of an answer. Raises EOFError where it ends too early."""
    response = control.ResponseReader()
    while not response.complete:
        response.feed(await asyncio.wait_for(reader.read(control.CHUNK), control.TIMEOUT))
    return response.status, response.body


def _text(value: Any) -> str:
    """A value of a query, as JSON writes truth."""
    return str(value).lower() if isinstance(value, bool) else str(value)
