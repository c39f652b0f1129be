"""A reload, asked for by a signal or by `relay reload`, which hears what became of it."""

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from relay.api.endpoints import endpoint
from relay.config.last_good import ConfigStatus

PATH = "/api/v1/reload"


class Reload:
    """Requests to read relay.yaml again. `asked` is set while there is one.

    `image` names this image of the process: after a reload there is another.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.image = secrets.token_hex(8)
        self._answers: list[asyncio.Future[list[str]]] = []
        self._taken = False

    async def problems(self) -> list[str]:
        """Ask for a reload; what is wrong with relay.yaml, nothing where it is taken."""
        if self._taken:
            return []
        answer: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        self.asked.set()
        return await answer

    def answer(self, problems: Sequence[str]) -> None:
        """Tell all who asked."""
        self._taken = not problems
        for each in self._answers:
            if not each.done():
                each.set_result(list(problems))
        self._answers.clear()

    def app(self, config_status: ConfigStatus) -> Starlette:
        """The endpoint of `relay reload`, which needs no store."""

        async def ask(_: Request) -> dict[str, Any]:
            return {"image": self.image, "problems": await self.problems()}

        async def show(_: Request) -> dict[str, Any]:
            return {"image": self.image, **config_status.view()}

        return Starlette(
            routes=[
                Route(PATH, endpoint(ask), methods=["POST"]),
                Route(PATH, endpoint(show), methods=["GET"]),
            ]
        )
