"""Exposure: who can reach the listeners that systemd passed, and whether they may."""

from collections.abc import Iterator, Mapping

from relay.config.crosschecks import NO_LOGIN, UNGUARDED, guessable
from relay.config.loader import Config, Problem, judged
from relay.server.sockets import ADMIN, PUBLIC, Listeners
from relay.units import HostPort
from relay.validation import REFUSED_FROM, dotted


def check_given(config: Config, listeners: Listeners, environ: Mapping[str, str]) -> Config:
    """The configuration with its warnings. Raises ConfigError where others reach too much.

    For the addresses in relay.yaml the reading of it has seen to that.
    """
    given = {
        use: [HostPort(*each.getsockname()[:2]) for each in listeners.activated.get(use, [])]
        for use in (PUBLIC, ADMIN)
    }
    problems = [
        *(found for each in given[PUBLIC] if not each.loopback for found in _doors(config, each)),
        *(_admin(config, each) for each in given[ADMIN] if not each.loopback),
    ]
    return judged(config, problems, environ)


def _doors(config: Config, address: HostPort) -> Iterator[Problem]:
    for name, source in config.sources.items():
        place = ("sources", name)
        if not (source.tokens or source.allow_from):
            yield Problem(config.path, None, dotted(place), UNGUARDED.format(address))
        for index, token in enumerate(source.tokens):
            if flaw := guessable(token.get_secret_value(), address):
                where = dotted((*place, "tokens", index))
                yield Problem(config.path, None, where, flaw, REFUSED_FROM)


def _admin(config: Config, address: HostPort) -> Problem:
    message = f"systemd passes {address}, but it {NO_LOGIN}"
    return Problem(config.path, None, "admin.listen", message)
