"""Host names: the names under which a listener answers, for pages of other sites know no other.

A name of theirs can be made to lead to this machine (DNS rebinding). An address cannot.
"""

from collections.abc import Iterable
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from relay.server.problem import send_problem

MISDIRECTED = 421


class HostGuard:
    """Refuses requests whose `Host` is neither an address, `localhost`, nor one of `names`.

    The paths in `free` are answered under any name.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str], free: Iterable[str]) -> None:
        self._app = app
        self._names = {"localhost", *(name.lower() for name in names)}
        self._free = frozenset(free)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self._free:
            host = Headers(scope=scope).get("host", "")
            if not self._is_known(name_of(host)):
                detail = "This name is not in admin.hosts."
                await send_problem(send, MISDIRECTED, detail)
                return
        await self._app(scope, receive, send)

    def _is_known(self, name: str) -> bool:
        return name in self._names or _is_address(name)


def name_of(host: str) -> str:
    """The name in a `Host` header, without its port, in small letters."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
