"""What a command keeps of an account that it has used itself. Nobody is told what is kept."""

from typing import Any

from starlette.requests import Request

from relay.api.requests import KeepBody
from relay.api.responses import body_of
from relay.store import Store


class Kept:
    """The endpoint of commands that call a vendor."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def keep(self, request: Request) -> dict[str, Any]:
        asked = await body_of(request, KeepBody)
        await self._store.keep(asked.account, asked.name, asked.value)
        return {"kept": asked.name}
