"""Questions for the housekeeping: purge, erase, how that gets on; every word of consent."""

from typing import Any

from starlette.requests import Request

from relay.api.requests import EraseBody, PurgeBody, WordsQuery
from relay.api.responses import Refused, body_of, query_of
from relay.maintenance import Housekeeping


class Chores:
    """The endpoints of `relay purge`, `relay erase` and `relay consent`."""

    def __init__(self, housekeeping: Housekeeping) -> None:
        self._housekeeping = housekeeping

    async def purge(self, request: Request) -> dict[str, Any]:
        body = await body_of(request, PurgeBody)
        return {"job": self._housekeeping.purge(body.older_than, dry_run=body.dry_run)}

    async def erase(self, request: Request) -> dict[str, Any]:
        return {"job": self._housekeeping.erase((await body_of(request, EraseBody)).mobile)}

    async def job(self, request: Request) -> dict[str, Any]:
        number = request.path_params["number"]
        job = self._housekeeping.job(number)
        if job is None:
            raise Refused(404, f"no job {number}")
        return job

    async def words(self, request: Request) -> list[dict[str, Any]]:
        query = query_of(request, WordsQuery)
        return await self._housekeeping.words(query.after, query.limit)
