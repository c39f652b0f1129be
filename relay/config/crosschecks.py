"""Cross-checks: rules for several values of relay.yaml together, or for values on this machine."""

import importlib.util
import socket
from collections.abc import Collection, Iterator, Mapping
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

import httpx

from relay.config.document import Document
from relay.config.errors import Issue
from relay.config.model import POSTGRESQL, Admin, Server, Settings
from relay.fsutil import path_from_utf8
from relay.secret import WEAK, bits
from relay.ssrf import refusal
from relay.units import HostPort, IPNetwork
from relay.validation import REFUSED_FROM, Location

UNGUARDED = "needs tokens or allow_from, as other machines can reach {}"
NO_LOGIN = "should be reached by this machine alone, as 127.0.0.1:8081 is: it has no login yet"
GUESSABLE = "is no better than {} bits, and other machines can reach {}: make a longer one"
NO_TRACES = "needs the extra otel: pip install 'sumotext-relay[otel]'"
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


def check_listeners(document: Document, verified: Collection[str] = ()) -> None:
    """Check both listeners: their addresses, and access control where others reach them."""
    public, admin = _listen(document, "server"), _listen(document, "admin")
    reached = str(public) if public and not public.loopback else None
    if document.part("server", "proxies"):
        reached = "the relay through a proxy"
    if reached:
        for name in document.names("sources"):
            _check_tokens(document, name, reached, verified=name in verified)
    if admin and not admin.loopback:
        document.add_issues([Issue(("admin", "listen"), NO_LOGIN)])
    for listener, address in (("server", public), ("admin", admin)):
        if address and (flaw := _zone_flaw(address.host)):
            document.add_issues([_new((listener, "listen"), flaw)])
    if public and admin and _meet(public, admin):
        document.add_issues([_new(("server", "listen"), ONE_PORT)])


def guessable(token: str, reached: object) -> str | None:
    """Why a token is too weak for a listener that other machines reach; None if it is not."""
    return GUESSABLE.format(found, reached) if (found := bits(token)) < WEAK else None


def check_files(
    document: Document, settings: Settings, files: Mapping[str, Collection[Path]]
) -> None:
    """Check that no sink writes to a file of another sink or of the relay."""
    taken = {path.resolve(): name for name, path in _own_files(document, settings)}
    for name, paths in files.items():
        for path in (each.resolve() for each in paths):
            if (other := taken.setdefault(path, f"sinks.{name}")) != f"sinks.{name}":
                message = SHARED.format(path.name, other)
                document.add_issues([_new(("sinks", name, "options"), message)])
                break


def check_addresses(
    document: Document, location: Location, urls: Mapping[str, Any], private: Collection[IPNetwork]
) -> None:
    """Check that the SSRF guard lets URLs with an address be dialled."""
    for key, url in urls.items():
        if (host := _host(url)) and all(refusal(each, [*private]) for each in _addresses(host)):
            document.add_issues([_new((*location, key), PRIVATE.format(host))])


def check_store(document: Document) -> None:
    """Check that `store` is no folder."""
    store = document.part("store")
    if isinstance(store, str) and store and (document.folder / path_from_utf8(store)).is_dir():
        document.add_issues([Issue(("store",), "should be a file, and this is a folder")])


def check_tracing(document: Document) -> None:
    """Check that tracing has the libraries that it needs."""
    if document.part("tracing") is not None and not otel_installed():
        document.add_issues([Issue(("tracing",), NO_TRACES)])


def otel_installed() -> bool:
    """Whether the OpenTelemetry extra is installed."""
    try:
        return importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False


def _new(location: Location, message: str) -> Issue:
    return Issue(location, message, refused_from=REFUSED_FROM)


def _check_tokens(document: Document, name: str, reached: str, *, verified: bool) -> None:
    source = document.part("sources", name)
    tokens = source.get("tokens") if isinstance(source, dict) else None
    if not (verified or tokens or (isinstance(source, dict) and source.get("allow_from"))):
        document.add_issues([Issue(("sources", name), UNGUARDED.format(reached))])
    for index, token in enumerate(tokens if isinstance(tokens, list) else ()):
        place = ("sources", name, "tokens", index)
        if not isinstance(token, str) or not token.strip() or document.unfilled(*place):
            continue
        if flaw := guessable(token, reached):
            document.add_issues([_new(place, flaw)])


def _listen(document: Document, listener: str) -> HostPort | None:
    given = document.part(listener, "listen")
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
    """Whether both listeners would bind the same address. Admin is reached by this machine only."""
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


def _own_files(document: Document, settings: Settings) -> Iterator[tuple[str, Path]]:
    yield "relay.yaml", document.origin
    if not settings.store.startswith(POSTGRESQL):
        yield "the store", document.folder / path_from_utf8(settings.store)
    if settings.store_fallback:
        yield "store_fallback", document.folder / path_from_utf8(settings.store_fallback)
