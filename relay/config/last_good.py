"""The last valid configuration: what the relay last started with, kept beside the store.

A relay.yaml that somebody breaks is noticed at the next start, which may be that of the machine at
night. Then callbacks go on being taken, and brought to the sinks that are as they were.
"""

import contextlib
import logging
import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from relay import fsutil, ownership
from relay.config import kept_rules
from relay.config.document import Reading
from relay.config.loader import Config, ConfigError, configured, registry_of
from relay.config.plugins import Registry, plugin_name

CHANGED = "its settings have changed in a relay.yaml that is wrong"
MAKING = (("plugin",), ("options",), ("batch",))
"""The parts of a sink that say how it is made."""
GONE = "it has gone from a relay.yaml that is wrong"

log = logging.getLogger("relay")


def keep(config: Config) -> None:
    """Keep the configuration, its secrets unfilled; where that fails, the next start does it."""
    if config.problems or not isinstance(config.store, Path):
        return
    place = config.state.last_good_config
    content = kept_rules.content(config.path, config.text)
    try:
        if not place.exists() or fsutil.content(place) != content:
            with fsutil.replaced(place, 0o600) as file:
                file.write(content)
    except OSError as error:
        log.warning("%s cannot be kept as the last valid configuration: %s", config.path, error)


def load(path: Path, environ: Mapping[str, str], wrong: ConfigError, *, fill: bool) -> Config:
    """The last valid configuration in place of `path`, with which this is wrong.

    Sinks are held back where they have changed since, or cannot be made any more. Root becomes the
    owner of that file for good: it names the plugins that are run, and the service may write it.
    Raises `wrong` where there is none.
    """
    for place in kept_rules.places(path, environ):
        ownership.give_up_root(place)
        with contextlib.suppress(ConfigError):
            return _salvaged(place, path, environ, wrong, fill=fill)
    raise wrong


def holding(config: Config, reasons: Mapping[str, str]) -> Config:
    """The configuration with these sinks held as well."""
    sinks = {
        name: replace(sink, held=reasons[name]) if name in reasons else sink
        for name, sink in config.sinks.items()
    }
    return replace(config, sinks=sinks)


def _salvaged(
    place: Path, path: Path, environ: Mapping[str, str], wrong: ConfigError, *, fill: bool
) -> Config:
    def reading() -> Reading:
        read = Reading(place, environ, strict=fill, origin=path, known=True)
        _close_doors(read)
        if read.unfilled("alerts"):
            read.leave_out("alerts")
        return read

    first, second = reading(), reading()
    registry = registry_of(first)
    unfit, unreadable = _unfit(first, registry)
    held = _changed(first, path, environ) | unfit
    for name in held:
        second.leave_out("sinks", name, "options")
        second.forgive("sinks", name)
    for name in unreadable:  # nobody knows any more what it is to get
        second.leave_out("sinks", name)
    problems = [str(problem) for problem in wrong.problems]
    return configured(second, registry, held=held, problems=problems)


def _close_doors(reading: Reading) -> None:
    """A token that cannot be read any more lets nobody in; and callbacks with it are kept."""
    for location in reading.unfilled("sources"):
        if reading.strict and "tokens" in location:
            reading.put(secrets.token_urlsafe(), *location)


def _changed(last: Reading, path: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The sinks that relay.yaml, as far as it can be read, describes otherwise than `last`."""
    try:
        sinks = Reading(path, environ, strict=False).described("sinks")
    except ConfigError:
        return {}
    if not isinstance(sinks, dict):
        return {}
    return {
        name: CHANGED if name in sinks else GONE
        for name in last.names("sinks")
        if sinks.get(name) != last.described("sinks", name)
    }


def _unfit(reading: Reading, registry: Registry) -> tuple[dict[str, str], set[str]]:
    """The sinks that cannot be made today, with the reason: a plugin, a credential, a file.

    And those of which more is wrong than that.
    """
    with contextlib.suppress(ConfigError):
        configured(reading, registry)
    of_sinks = [each for each in reading.mistakes if len(each.location) > 1]
    of_sinks = [each for each in of_sinks if each.location[0] == "sinks"]
    unfit = {str(each.location[1]): each.message for each in of_sinks}
    broken = {plugin_name(Path(error.path)): str(error) for error in registry.errors}
    for name in reading.names("sinks"):
        plugin = reading.part("sinks", name, "plugin")
        if plugin in broken and plugin not in registry.sinks:
            unfit[name] = broken[plugin]
    return unfit, {str(each.location[1]) for each in of_sinks if each.location[2:3] not in MAKING}
