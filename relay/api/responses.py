"""Answers: a question is checked, an endpoint's value becomes JSON, a refusal a problem."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import orjson
import pydantic
from starlette.requests import Request
from starlette.responses import Response

from relay.fsutil import json_with_paths
from relay.server.refusals import PROBLEM_TYPE, problem_body
from relay.store import StoreError, StoreFull

Endpoint = Callable[[Request], Awaitable[Any]]
"""Returns what becomes the JSON of the answer."""
B = TypeVar("B", bound=pydantic.BaseModel)
T = TypeVar("T")


class Refused(Exception):
    """What was asked cannot be done; the text says why, to the person who asked."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def answered(endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint's value as a JSON response, its refusals as problems."""

    async def answer(request: Request) -> Response:
        try:
            body = json_with_paths(await endpoint(request))
        except Refused as error:
            return _problem(error.status, str(error))
        except StoreFull as error:
            return _problem(507, f"{error}: nothing was changed")
        except StoreError as error:
            return _problem(503, str(error))
        return Response(body, media_type="application/json")

    return answer


async def body_of(request: Request, model: type[B]) -> B:
    """What was asked in the body. Raises Refused."""
    return _checked(model, await request.body() or b"{}")


def query_of(request: Request, model: type[B]) -> B:
    """What was asked in the query. Raises Refused."""
    return _checked(model, orjson.dumps(dict(request.query_params)))


async def found(reading: Awaitable[T | None], what: str) -> T:
    """What is read; refused where it is not there, or its id is none at all."""
    try:
        value = await reading
    except ValueError:
        value = None
    if value is None:
        raise Refused(404, f"no {what}")
    return value


def _checked(model: type[B], text: bytes) -> B:
    try:
        return model.model_validate_json(text)
    except pydantic.ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refused(400, f"{where}: {first['msg']}") from None


def _problem(status: int, detail: str) -> Response:
    return Response(problem_body(status, detail), status, media_type=PROBLEM_TYPE.decode())
