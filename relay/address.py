"""The address that a listener binds to."""

import ipaddress
from dataclasses import dataclass
from typing import Annotated, Self

from relay.units import text_type

MESSAGE = 'should be an address such as 127.0.0.1:8080, localhost:8080 or "[::1]:8080"'


@dataclass(frozen=True, slots=True)
class Address:
    """A host, or its number, and a port; port 0 lets the system choose one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        host, separator, port = text.rpartition(":")
        host, bracketed = _without_brackets(host)
        if not (separator and host and port.isdecimal() and port.isascii()):
            raise ValueError(MESSAGE)
        if (":" in host) != bracketed or int(port) > 65535:
            raise ValueError(MESSAGE)
        return cls(host, int(port))

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _without_brackets(host: str) -> tuple[str, bool]:
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1], True
    return host, False


Listen = Annotated[Address, *text_type(Address.parse, "address", {"pattern": r":[0-9]{1,5}$"})]
