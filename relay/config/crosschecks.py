"""Cross-checks: what a value of relay.yaml comes to beside others, or on this machine."""

import socket
from collections.abc import Collection, Iterator, Mapping
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

import httpx

from relay.config.document import Reading
from relay.config.errors import Mistake
from relay.config.model import POSTGRESQL, Admin, IPNetwork, Server, Settings
from relay.fsutil import path_from_utf8
from relay.secret import WEAK, bits
from relay.ssrf import refusal
from relay.units import HostPort
from relay.validation import REFUSED_FROM, Location

UNGUARDED = "needs tokens or allow_from, as other machines can reach {}"
NO_LOGIN = "should be reached by this machine alone, as 127.0.0.1:8081 is: it has no login yet"
GUESSABLE = "is no better than {} bits, and other machines can reach {}: make a longer one"
ONE_PORT = "should have another port than admin.listen"
NO_ZONE = "is link-local, and needs the network interface, as in [fe80::1%eth0]:8080"
WITHOUT_ZONE = "there is no such network interface on this machine"
PRIVATE = "{} is not public: name its network in allow_private"
SHARED = "writes to {}, as {} does"
THIS_MACHINE = ("127.0.0.1", "::1")
DEFAULTS = {
    "server": Server.model_fields["listen"].default,
    "admin": Admin.model_fields["listen"].default,
}
EVERY = ("0.0.0.0", "::")  # noqa: S104  nothing is bound here


def check_listeners(reading: Reading) -> None:
    """Complain of addresses that cannot be listened on, and of doors that are open to others."""
    public, admin = _listen(reading, "server"), _listen(reading, "admin")
    reached = str(public) if public and not public.loopback else None
    if reading.part("server", "proxies"):
        reached = "the relay through a proxy"
    if reached:
        for name in reading.names("sources"):
            _check_tokens(reading, name, reached)
    if admin and not admin.loopback:
        reading.complain([Mistake(("admin", "listen"), NO_LOGIN)])
    for listener, address in (("server", public), ("admin", admin)):
        if address and (flaw := _zone_flaw(address.host)):
            reading.complain([_new((listener, "listen"), flaw)])
    if public and admin and _meet(public, admin):
        reading.complain([_new(("server", "listen"), ONE_PORT)])


def guessable(token: str, reached: object) -> str | None:
    """Why a token is too weak for a listener that others reach; None where it is not."""
    return GUESSABLE.format(found, reached) if (found := bits(token)) < WEAK else None


def check_files(
    reading: Reading, settings: Settings, files: Mapping[str, Collection[Path]]
) -> None:
    """Complain of sinks that write to a file of another one, or of the relay's own."""
    taken = {path.resolve(): name for name, path in _own_files(reading, settings)}
    for name, paths in files.items():
        for path in (each.resolve() for each in paths):
            if (other := taken.setdefault(path, f"sinks.{name}")) != f"sinks.{name}":
                message = SHARED.format(path.name, other)
                reading.complain([_new(("sinks", name, "options"), message)])
                break


def check_addresses(
    reading: Reading, location: Location, urls: Mapping[str, Any], private: Collection[IPNetwork]
) -> None:
    """Complain of URLs with an address that the guard will not let their owner dial."""
    for key, url in urls.items():
        if (host := _host(url)) and all(refusal(each, [*private]) for each in _addresses(host)):
            reading.complain([_new((*location, key), PRIVATE.format(host))])


def check_store(reading: Reading) -> None:
    """Complain of a store that is a folder."""
    store = reading.part("store")
    if isinstance(store, str) and store and (reading.folder / path_from_utf8(store)).is_dir():
        reading.complain([Mistake(("store",), "should be a file, and this is a folder")])


def _new(location: Location, message: str) -> Mistake:
    return Mistake(location, message, refused_from=REFUSED_FROM)


def _check_tokens(reading: Reading, name: str, reached: str) -> None:
    source = reading.part("sources", name)
    tokens = source.get("tokens") if isinstance(source, dict) else None
    if not (tokens or (isinstance(source, dict) and source.get("allow_from"))):
        reading.complain([Mistake(("sources", name), UNGUARDED.format(reached))])
    for index, token in enumerate(tokens if isinstance(tokens, list) else ()):
        place = ("sources", name, "tokens", index)
        if not isinstance(token, str) or not token.strip() or reading.unfilled(*place):
            continue
        if flaw := guessable(token, reached):
            reading.complain([_new(place, flaw)])


def _listen(reading: Reading, listener: str) -> HostPort | None:
    given = reading.part(listener, "listen")
    try:
        return HostPort.parse(DEFAULTS[listener] if given is None else given)
    except (AttributeError, ValueError):
        return None


def _zone_flaw(host: str) -> str | None:
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if not isinstance(address, IPv6Address):
        return None
    if not (zone := address.scope_id):
        return NO_ZONE if address.is_link_local else None
    try:
        socket.if_indextoname(int(zone)) if zone.isdecimal() else socket.if_nametoindex(zone)
    except (OSError, OverflowError):
        return WITHOUT_ZONE
    return None


def _meet(public: HostPort, admin: HostPort) -> bool:
    """Whether the two cannot be bound at once; admin is reached by this machine alone."""
    if public.port != admin.port or not public.port:
        return False
    hosts = {_addresses(each.host)[0] for each in (public, admin)}
    return len(hosts) == 1 or public.host in EVERY


def _host(url: Any) -> str | None:
    """The host of a URL where it is an address, or this machine by its name."""
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        return None
    try:
        host = httpx.URL(url).host
        if host != "localhost":
            ip_address(host)
    except (httpx.InvalidURL, ValueError):
        return None
    return host


def _addresses(host: str) -> tuple[str, ...]:
    return THIS_MACHINE if host == "localhost" else (host,)


def _own_files(reading: Reading, settings: Settings) -> Iterator[tuple[str, Path]]:
    yield "relay.yaml", reading.origin
    if not settings.store.startswith(POSTGRESQL):
        yield "the store", reading.folder / path_from_utf8(settings.store)
    if settings.store_fallback:
        yield "store_fallback", reading.folder / path_from_utf8(settings.store_fallback)
