"""Checks of tokens, the certificate, and the files that hold secrets or code."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydantic
from cryptography import x509

from relay import fsutil
from relay.config import writers
from relay.config.loader import Config
from relay.doctor import Finding, ok, problem, warning
from relay.secret import WEAK, bits
from relay.server.tls import Certificate, missing_chain
from relay.validation import PLACEHOLDER

STRONG = 120
"""Bits of a token. A hundred tries a second for ten years are 35 of them."""

RENEW = 14
"""Days before its end in which a certificate should have been renewed."""

MAKE_ONE = "head -c 24 /dev/urandom | base64 | tr +/ -_"


def sources(config: Config) -> Iterator[Finding]:
    """Whether strangers can send callbacks."""
    for name, source in config.sources.items():
        subject = f"source {name}"
        authenticates = config.source_plugins[name].authenticates
        if not (source.tokens or source.allow_from or authenticates):
            yield warning(
                subject,
                f"it takes callbacks from everybody who reaches {config.server.listen}",
                f"where a proxy passes callbacks on, give it a token: {MAKE_ONE}",
            )
        for number, token in enumerate(source.tokens):
            where = f"sources.{name}.tokens[{number}]"
            yield _strength(subject, where, token.get_secret_value())


def _strength(subject: str, where: str, token: str) -> Finding:
    if match := PLACEHOLDER.search(token):
        return warning(
            subject,
            f"{where} is {match[0]}, which this command does not know",
            "run it as the service runs, or see to it that the token is long",
        )
    found = bits(token)
    if found >= STRONG:
        return ok(subject, f"{where} cannot be guessed")
    made = problem if found < WEAK else warning
    return made(subject, f"{where} is no better than {found} bits", f"make another: {MAKE_ONE}")


def certificate(config: Config, now: float) -> Iterator[Finding]:
    """Whether the listener's certificate is good, and for how long."""
    if (tls := config.server.tls) is None:
        return
    subject = "certificate"
    try:
        Certificate(tls.cert, tls.key)
        unchained = missing_chain(tls.cert)
        end = x509.load_pem_x509_certificate(tls.cert.read_bytes()).not_valid_after_utc
        begin = x509.load_pem_x509_certificate(tls.cert.read_bytes()).not_valid_before_utc
    except (OSError, ValueError) as error:
        yield problem(subject, str(error), "name a PEM file with the chain, and one with its key")
        return
    today = datetime.fromtimestamp(now, UTC)
    days = (end - today).days
    if today < begin:
        yield problem(
            subject, f"{tls.cert} is not valid before {begin:%Y-%m-%d}", "look at the clock"
        )
    elif today >= end:
        yield problem(subject, f"{tls.cert} ended on {end:%Y-%m-%d}", "renew it")
    elif days < RENEW:
        yield warning(subject, f"{tls.cert} ends in {days} days", "renew it")
    else:
        yield ok(subject, f"{tls.cert} is good until {end:%Y-%m-%d}")
    if unchained:
        yield warning(subject, unchained, "openssl s_client -connect shows what senders get")


def exposed(raw: Config) -> Iterator[Finding]:
    """Whether others on the machine can read secrets, or change what the relay runs.

    `raw` is the configuration as it is written, with its placeholders.
    """
    found = [*_writers(raw), *_settings(raw), *_key(raw), *_plugins(raw)]
    yield from found or [ok("secrets", "no other user reads the secrets or changes the code")]


def _settings(raw: Config) -> Iterator[Finding]:
    if raw.path.stat().st_mode & 0o004 and any(_literal(raw)):
        yield warning(
            "secrets",
            f"everybody on this machine can read the secrets in {raw.path}",
            f"chmod o-r {raw.path}, or write ${{file:PATH}} or ${{credential:NAME}} in their place",
        )


def _key(raw: Config) -> Iterator[Finding]:
    tls = raw.server.tls
    if tls and tls.key.exists() and tls.key.stat().st_mode & 0o006:
        yield problem("secrets", f"everybody can read {tls.key}", f"chmod o= {tls.key}")


def _plugins(raw: Config) -> Iterator[Finding]:
    """Those that come with the relay or are installed: for the others see `_writers`."""
    for origin in sorted({sink.origin for sink in raw.registry.sinks.values()}):
        path = Path(origin)
        if any(each.resolve() in path.parents for each in raw.plugins):
            continue
        if path.exists() and (path.stat().st_mode | path.parent.stat().st_mode) & 0o002:
            yield problem(
                "secrets",
                f"everybody can change {path}, which the relay runs",
                f"chmod o-w {path} {path.parent}",
            )


def _writers(raw: Config) -> Iterator[Finding]:
    """Under a system service both keep the relay from starting with a new relay.yaml."""
    there = fsutil.existing(raw.store) if isinstance(raw.store, Path) else raw.path
    found = writers.writable(raw, writers.User.owner(there))
    for each in found:
        if each.writer == writers.EVERYBODY:
            yield problem("secrets", str(each), each.remedy)
    if own := [each for each in found if each.writer != writers.EVERYBODY]:
        paths = ", ".join(str(each.path) for each in own)
        text = f"{own[0].writer} can change {paths}: code in its place would stay and be run"
        yield warning("secrets", text, "for a service, have them be root's: chown root …")


def _literal(raw: Config) -> Iterator[bool]:
    """For each secret, whether relay.yaml holds it in plain text."""
    options = [sink.options.model_dump() for sink in raw.sinks.values()]
    tokens = [source.tokens for source in raw.sources.values()]
    for secret in _secrets([options, tokens]):
        yield not PLACEHOLDER.search(secret)


def _secrets(value: Any) -> Iterator[str]:
    match value:
        case pydantic.SecretStr():
            yield value.get_secret_value()
        case dict():
            yield from _secrets(list(value.values()))
        case list() | tuple():
            for each in value:
                yield from _secrets(each)
