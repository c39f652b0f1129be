"""Exposure: who can reach the listeners that systemd passed, and whether they may."""

from relay.address import Address
from relay.configuration.config import NO_LOGIN, UNGUARDED, Config, ConfigError, Problem
from relay.web.listeners import ADMIN, PUBLIC, Listeners


def check_given(config: Config, listeners: Listeners) -> None:
    """Raise ConfigError where other machines reach what they must not.

    For the addresses in relay.yaml the reading of it has seen to that.
    """
    problems = []
    for each in listeners.given.get(PUBLIC, []):
        address = Address(*each.getsockname()[:2])
        for name, source in config.sources.items():
            if not address.loopback and not (source.tokens or source.allow_from):
                message = UNGUARDED.format(address)
                problems.append(Problem(config.path, None, f"sources.{name}", message))
    for each in listeners.given.get(ADMIN, []):
        address = Address(*each.getsockname()[:2])
        if not address.loopback:
            message = f"systemd passes {address}, but it {NO_LOGIN}"
            problems.append(Problem(config.path, None, "admin.listen", message))
    if problems:
        raise ConfigError(problems)
