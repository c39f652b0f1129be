"""Last valid configuration, and the status of the one in use.

An error in relay.yaml may only show at the next start, which may be a reboot at night. The relay
then starts with the configuration of the last start: it takes callbacks, and delivers to the sinks
that are unchanged.
"""

import contextlib
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from relay import fsutil, ownership
from relay.config import last_good_file
from relay.config.document import Document
from relay.config.loader import Config, ConfigError, configured, registry_of
from relay.config.model import DEFAULT_SOURCE
from relay.config.plugins import Registry
from relay.config.sources import HeldSource
from relay.redact import mask_all

CHANGED = "its settings have changed in a relay.yaml that is wrong"
MAKING = (("plugin",), ("options",), ("batch",))
"""The settings of a sink that its construction needs."""
OF_THE_WHOLE = 2
"""Parts of the location of an issue with a source as a whole."""
GONE = "it has gone from a relay.yaml that is wrong"

log = logging.getLogger("relay")


def keep(config: Config) -> None:
    """Save the text of relay.yaml, without interpolated secrets. A failure is only logged."""
    if config.problems or not isinstance(config.store, Path):
        return
    place = config.state.last_good_config
    content = last_good_file.content(config.path, config.text)
    try:
        if not place.exists() or fsutil.content(place) != content:
            with fsutil.replaced(place, 0o600) as file:
                file.write(content)
    except OSError as error:
        log.warning("%s cannot be kept as the last valid configuration: %s", config.path, error)


def load(path: Path, environ: Mapping[str, str], wrong: ConfigError, *, fill: bool) -> Config:
    """The last valid configuration in place of `path`, which has the error `wrong`.

    Sinks are held if their settings have changed since, or if they cannot be made. Root gives up
    its privileges for good to the owner of the copy: the copy names plugins that are run, and the
    service may write it. Raises `wrong` if there is no copy.
    """
    for place in last_good_file.places(path, environ):
        ownership.give_up_root(place)
        with contextlib.suppress(ConfigError):
            return _salvaged(place, path, environ, wrong, fill=fill)
    raise wrong


def holding(config: Config, reasons: Mapping[str, str]) -> Config:
    """The configuration with these sinks held too."""
    sinks = {
        name: replace(sink, held=reasons[name]) if name in reasons else sink
        for name, sink in config.sinks.items()
    }
    return replace(config, sinks=sinks)


def _salvaged(
    place: Path, path: Path, environ: Mapping[str, str], wrong: ConfigError, *, fill: bool
) -> Config:
    def document() -> Document:
        read = Document(place, environ, strict=fill, origin=path, known=True)
        _close_sources(read)
        if read.unfilled("alerts"):
            read.drop("alerts")
        return read

    first, second = document(), document()
    registry = registry_of(first)
    unfit, unreadable = _unfit(first, registry)
    unfit_sources = _unfit_sources(first, registry)
    held = _changed(first, path, environ) | unfit
    for name in held:
        second.drop("sinks", name, "options")
        second.discard_issues("sinks", name)
    for name in unreadable:  # what they should receive is not known
        second.drop("sinks", name)
    for name in unfit_sources:
        second.drop("sources", name, "options")
        second.discard_issues("sources", name)
    problems = [str(issue) for issue in wrong.issues]
    return configured(second, registry, held=held, held_sources=unfit_sources, problems=problems)


def _close_sources(document: Document) -> None:
    """Replace unfilled tokens by random ones, so that the source admits no callback."""
    for location in document.unfilled("sources"):
        if document.strict and "tokens" in location:
            document.replace(secrets.token_urlsafe(), *location)


def _changed(last: Document, path: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The sinks with other settings in `last` than in relay.yaml, as far as that can be read."""
    try:
        sinks = Document(path, environ, strict=False).raw("sinks")
    except ConfigError:
        return {}
    if not isinstance(sinks, dict):
        return {}
    return {
        name: CHANGED if name in sinks else GONE
        for name in last.names("sinks")
        if sinks.get(name) != last.raw("sinks", name)
    }


def _unfit(document: Document, registry: Registry) -> tuple[dict[str, str], set[str]]:
    """The sinks that cannot be made, with the reason: a plugin, a credential, a file.

    Second, the sinks with an issue outside of the settings of their construction.
    """
    with contextlib.suppress(ConfigError):
        configured(document, registry)
    of_sinks = [each for each in document.issues if len(each.location) > 1]
    of_sinks = [each for each in of_sinks if each.location[0] == "sinks"]
    unfit = {str(each.location[1]): each.message for each in of_sinks}
    broken = registry.broken()
    for name in document.names("sinks"):
        plugin = document.part("sinks", name, "plugin")
        if plugin in broken and plugin not in registry.sinks:
            unfit[name] = broken[plugin]
    return unfit, {str(each.location[1]) for each in of_sinks if each.location[2:3] not in MAKING}


def _unfit_sources(document: Document, registry: Registry) -> dict[str, str]:
    """The sources that cannot be made, with the reason. `_unfit` has looked for the issues."""
    of_sources = [each for each in document.issues if each.location[:1] == ("sources",)]
    unfit = {
        str(each.location[1]): each.message
        for each in of_sources
        if len(each.location) == OF_THE_WHOLE or each.location[2:3] in MAKING
    }
    broken = registry.broken()
    for name in document.names("sources"):
        plugin = document.part("sources", name, "plugin") or DEFAULT_SOURCE
        if plugin in broken and plugin not in registry.sources:
            unfit[name] = broken[plugin]
    return unfit


def held_sources(config: Config) -> dict[str, str]:
    """The sources whose callbacks are refused, with the reason."""
    made = config.source_plugins.items()
    return {name: source.reason for name, source in made if isinstance(source, HeldSource)}


CURRENT = "current"
OUTDATED = "outdated"
LAST_VALID = "last_valid"


class ConfigStatus:
    """The configuration in use, and whether relay.yaml still has the same one.

    `problems` are the issues of the current relay.yaml, while the relay runs with an earlier one.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.problems = list(config.problems)

    def refuse(self, problems: Sequence[str]) -> None:
        """Record that a reload was refused."""
        self.problems = list(problems)

    @property
    def state(self) -> str:
        if self.config.problems:
            return LAST_VALID
        return OUTDATED if self.problems or self._edited() else CURRENT

    def view(self) -> dict[str, Any]:
        """The values for `status`. Outdated without a problem: relay.yaml was edited."""
        held = held_sources(self.config)
        return {
            "state": self.state,
            "problems": self.problems,
            "warnings": list(self.config.warnings),
            **({"held_sources": held} if held else {}),
        }

    def facts(self) -> dict[str, float]:
        """The values for the metrics."""
        return {"relay_configuration_valid": float(not self.problems)}

    def notices(self) -> list[str]:
        """The lines for the health endpoint."""
        wrong = [f"configuration: {problem}; {self._instead()}" for problem in self.problems]
        held = held_sources(self.config)
        return [*wrong, *(f"source {name}: held: {mask_all(why)}" for name, why in held.items())]

    def complaints(self) -> list[str]:
        """The lines for the log: the problems, the configuration in use, what is held."""
        if not self.problems:
            return []
        held = [
            f"sink {name} is held, its deliveries are queued: {sink.held}"
            for name, sink in self.config.sinks.items()
            if sink.held is not None
        ]
        held += [
            f"source {name} is held, its callbacks are refused: {reason}"
            for name, reason in held_sources(self.config).items()
        ]
        return [*self.problems, f"{self.config.path} is wrong: {self._instead()}", *held]

    def _instead(self) -> str:
        kind = "the last valid one" if self.config.problems else "what was read before"
        return f"the relay goes on with {kind}"

    def _edited(self) -> bool:
        try:
            return self.config.path.read_bytes() != self.config.text
        except OSError:
            return True
