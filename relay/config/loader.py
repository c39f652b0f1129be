"""Configuration loader: relay.yaml read, interpolated and checked, each issue with its line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo

from relay.config import crosschecks, last_good_file
from relay.config.document import Document
from relay.config.errors import ConfigError, Issue, LocatedIssue
from relay.config.model import (
    DEFAULT_PLUGINS,
    DEFAULT_SOURCE,
    POSTGRESQL,
    Admin,
    Alerts,
    Retention,
    Server,
    Settings,
    SourceConfig,
    Tracing,
    parse_timezone,
)
from relay.config.plugins import Registry
from relay.config.plugins import load as load_plugins
from relay.config.sinks import SinkChecker, SinkConfig
from relay.config.sources import SourceChecker
from relay.fsutil import path_from_utf8
from relay.source import Source
from relay.state_directory import StateDirectory
from relay.templating.expressions import Compiler

__all__ = ["Config", "ConfigError", "LocatedIssue", "SourceConfig", "load"]


@dataclass(frozen=True, slots=True)
class Config:
    """The checked settings of relay.yaml, with absolute paths.

    `store` is a file or a postgresql:// URL. `store_reserve` is in bytes. `plugins` are folders.
    """

    path: Path
    folder: Path
    server: Server
    admin: Admin
    store: Path | str = field(repr=False)
    state: StateDirectory
    store_reserve: int
    plugins: Sequence[Path]
    retention: Retention
    timezone: ZoneInfo
    compiler: Compiler = field(repr=False)
    sources: dict[str, SourceConfig]
    source_plugins: dict[str, Source] = field(repr=False)
    """What reads the callbacks of each source; `sources` is what relay.yaml says of it."""
    sinks: dict[str, SinkConfig]
    alerts: Alerts
    tracing: Tracing | None
    registry: Registry = field(repr=False)
    text: bytes = field(repr=False)
    """The file as it was read."""
    problems: Sequence[str] = ()
    """What is wrong with `path`, if this is the last valid configuration in its place."""
    warnings: Sequence[str] = ()
    """What a later release refuses. This one accepts it as long as the file stays unchanged."""


def load(path: Path, environ: Mapping[str, str], *, fill: bool = True) -> Config:
    """Read relay.yaml. Raises one ConfigError with all issues.

    With `fill=False` a placeholder without a value stays in the text. An issue of a new rule is a
    warning if the relay last started with the same file.
    """
    document = Document(path, environ, strict=fill)
    registry = registry_of(document)
    try:
        return configured(document, registry)
    except ConfigError as error:
        if not error.is_of_new_rules() or not last_good_file.has_run_with(path, environ):
            raise
    return configured(Document(path, environ, strict=fill, known=True), registry)


def judged(config: Config, issues: Sequence[LocatedIssue], environ: Mapping[str, str]) -> Config:
    """The configuration with issues that were found after it was loaded.

    Raises ConfigError. If all issues are of new rules and the relay last started with the same
    file, they become warnings.
    """
    if not issues:
        return config
    error = ConfigError(issues)
    known = bool(config.problems) or last_good_file.has_run_with(config.path, environ)
    if not known or not error.is_of_new_rules():
        raise error
    return replace(config, warnings=[*config.warnings, *(each.as_warning() for each in issues)])


def configured(
    document: Document,
    registry: Registry,
    *,
    held: Mapping[str, str] = MappingProxyType({}),
    held_sources: Mapping[str, str] = MappingProxyType({}),
    problems: Sequence[str] = (),
) -> Config:
    """The configuration of a document. Raises ConfigError with all issues.

    `held` and `held_sources` have the reasons of held sinks and sources. Their plugin and options
    are not checked.
    """
    context = {"folder": document.folder, "strict": document.strict}
    settings = document.validate(Settings, document.values, context=context)
    plugins = {document.part("sources", name, "plugin") for name in document.names("sources")}
    other_data = not plugins <= {None, DEFAULT_SOURCE}
    compiler = Compiler(_timezone(document.part("timezone")), other_data=other_data)
    sources = {
        name: SourceChecker(
            document,
            name,
            registry,
            settings.sources[name] if settings is not None else None,
            held_sources.get(name),
        )
        for name in document.names("sources")
    }
    authenticated = [name for name, each in sources.items() if each.authenticates]
    crosschecks.check_listeners(document, authenticated)
    crosschecks.check_store(document)
    crosschecks.check_tracing(document)
    sinks = {
        name: SinkChecker(document, name, compiler, registry, held.get(name))
        for name in document.names("sinks")
    }
    if settings is not None:
        _check_together(document, settings, sinks)
    if settings is None or document.issues:
        raise document.error()
    return Config(
        path=document.origin,
        folder=document.folder,
        server=settings.server,
        admin=settings.admin,
        store=_place(settings.store, document.folder),
        state=_state_directory(settings, document.folder),
        store_reserve=settings.store_reserve,
        plugins=[document.folder / path_from_utf8(each) for each in settings.plugins],
        retention=settings.retention,
        timezone=settings.timezone,
        compiler=compiler,
        sources=settings.sources,
        source_plugins={name: sources[name].source for name in settings.sources},
        sinks={name: sinks[name].config(each) for name, each in settings.sinks.items()},
        alerts=settings.alerts,
        tracing=settings.tracing,
        registry=registry,
        text=document.text,
        problems=problems,
        warnings=[each.as_warning() for each in document.located(document.warnings)],
    )


def _check_together(
    document: Document, settings: Settings, sinks: Mapping[str, SinkChecker]
) -> None:
    """Checks of options beside other settings and other sinks."""
    files = {name: sinks[name].own_files() for name, it in settings.sinks.items() if it.enabled}
    crosschecks.check_files(document, settings, files)
    for name, sink in settings.sinks.items():
        urls = dict(sinks[name].options or ())
        crosschecks.check_addresses(document, ("sinks", name, "options"), urls, sink.allow_private)
    if hook := settings.alerts.webhook:
        urls = {"url": hook.url}
        crosschecks.check_addresses(document, ("alerts", "webhook"), urls, hook.allow_private)


def _timezone(text: Any) -> ZoneInfo:
    try:
        return parse_timezone(text)
    except (TypeError, ValueError):
        return ZoneInfo("UTC")


def _place(store: str, folder: Path) -> Path | str:
    return store if store.startswith(POSTGRESQL) else folder / path_from_utf8(store)


def _state_directory(settings: Settings, folder: Path) -> StateDirectory:
    named = settings.store_fallback
    spill = folder / path_from_utf8(named) if named else None
    return StateDirectory.of(_place(settings.store, folder), folder, spill)


def registry_of(document: Document) -> Registry:
    """The plugins that can be used. Those that do not load become issues of the document."""
    given = document.part("plugins")
    for index, name in enumerate(given if isinstance(given, list) else ()):
        # The default one need not be there.
        if (
            isinstance(name, str)
            and name != DEFAULT_PLUGINS
            and not (document.folder / path_from_utf8(name)).is_dir()
        ):
            document.add_issues([Issue(("plugins", index), "there is no such folder")])
    registry = load_plugins(plugin_folders(document))
    document.add_issues(Issue(("plugins",), str(error)) for error in registry.errors)
    return registry


def plugin_folders(document: Document) -> list[Path]:
    """The folders of `plugins:`, whether they exist or not; else the default one."""
    given = document.part("plugins")
    names = given if isinstance(given, list) else [DEFAULT_PLUGINS]
    return [document.folder / path_from_utf8(name) for name in names if isinstance(name, str)]
