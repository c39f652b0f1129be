"""What the endpoints share: checked requests, JSON answers, errors, pages, sinks by name."""

import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import orjson
import pydantic
from starlette.requests import Request
from starlette.responses import Response

from relay.config.sinks import SinkConfig
from relay.fsutil import json_with_paths
from relay.server.refusals import PROBLEM_TYPE, problem_body
from relay.store import StoreError, StoreFull
from relay.store.port import Store

Endpoint = Callable[[Request], Awaitable[Any]]
"""Returns the value of the JSON response."""
B = TypeVar("B", bound=pydantic.BaseModel)
T = TypeVar("T")
R = TypeVar("R")


class EndpointError(Exception):
    """A refused request. The text is the reason, for the operator."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def endpoint(handler: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    """An ASGI endpoint: the handler's value as a JSON response, its errors as problem details."""

    async def answer(request: Request) -> Response:
        try:
            body = json_with_paths(await handler(request))
        except EndpointError as error:
            return _problem(error.status, str(error))
        except StoreFull as error:
            return _problem(507, f"{error}: nothing was changed")
        except StoreError as error:
            return _problem(503, str(error))
        return Response(body, media_type="application/json")

    return answer


class RequestBody(pydantic.BaseModel):
    """The body or the query of a request. An unknown name in it is refused."""

    model_config = pydantic.ConfigDict(extra="forbid")


async def body_of(request: Request, model: type[B]) -> B:
    """The validated body. Raises EndpointError."""
    return _checked(model, await request.body() or b"{}")


def query_of(request: Request, model: type[B]) -> B:
    """The validated query. Raises EndpointError."""
    return _checked(model, orjson.dumps(dict(request.query_params)))


async def or_404(reading: Awaitable[T | None], what: str) -> T:
    """The value that is read. Raises EndpointError where there is none, or the id is malformed."""
    try:
        value = await reading
    except ValueError:
        value = None
    if value is None:
        raise EndpointError(404, f"no {what}")
    return value


def _checked(model: type[B], text: bytes) -> B:
    try:
        return model.model_validate_json(text)
    except pydantic.ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise EndpointError(400, f"{where}: {first['msg']}") from None


def _problem(status: int, detail: str) -> Response:
    return Response(problem_body(status, detail), status, media_type=PROBLEM_TYPE.decode())


PageStart = tuple[int, str]
"""Where a page ends: the seq of its last row, and the sink where a seq has rows of several."""


def make_page(
    rows: Sequence[R],
    limit: int,
    view: Callable[[R], dict[str, Any]],
    position: Callable[[R], PageStart],
) -> dict[str, Any]:
    """`{"items": [...], "next": cursor or None}`; `limit` is the number of rows asked for."""
    last = rows[-1] if rows and len(rows) == limit else None
    return {
        "items": [view(row) for row in rows],
        "next": None if last is None else encode_cursor(position(last)),
    }


def encode_cursor(position: PageStart) -> str:
    """The cursor of a position."""
    return base64.urlsafe_b64encode(orjson.dumps(position)).decode().rstrip("=")


def decode_cursor(cursor: str | None) -> PageStart | None:
    """The position of a cursor, None for the first page. Raises EndpointError for other text."""
    if cursor is None:
        return None
    try:
        found = orjson.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", True))
    except ValueError:
        found = None
    match found:
        case [int(seq), str(sink)]:
            return seq, sink
    raise EndpointError(400, "cursor: it is none that this relay has given out")


class SinkLookup:
    """Sinks by name: those of relay.yaml (`sinks`), and removed ones that the store still lists."""

    def __init__(self, sinks: Mapping[str, SinkConfig], store: Store) -> None:
        self.sinks = sinks
        self._store = store

    def sink(self, name: str) -> SinkConfig:
        """The sink. Raises EndpointError where relay.yaml has none."""
        if sink := self.sinks.get(name):
            return sink
        known = ", ".join(self.sinks) or "none"
        raise EndpointError(404, f"no sink {name} in relay.yaml (known: {known})")

    def enabled(self, name: str) -> SinkConfig:
        """An enabled sink. Raises EndpointError for one that is disabled, held or unknown."""
        sink = self.sink(name)
        if not sink.enabled:
            raise EndpointError(409, f"the sink {name} is disabled; enable it in relay.yaml first")
        if sink.held is not None:
            raise EndpointError(409, f"the sink {name} is held: {sink.held}; mend relay.yaml first")
        return sink

    async def check_remembered(self, name: str) -> None:
        """Raises EndpointError where the store has no delivery of such a sink."""
        if name not in await self._store.sink_counts():
            raise EndpointError(404, f"no sink {name} ever had a delivery")
