"""Configuration loader: relay.yaml read, interpolated and checked, each issue with its line."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar, cast, get_args
from zoneinfo import ZoneInfo

from relay.config import crosschecks, last_good_file
from relay.config.document import Document
from relay.config.errors import ConfigError, Issue, LocatedIssue
from relay.config.model import (
    DEFAULT_PLUGINS,
    POSTGRESQL,
    Admin,
    Alerts,
    BreakerSettings,
    Retention,
    RetrySettings,
    Server,
    Settings,
    SinkSettings,
    SourceConfig,
    Tracing,
    parse_timezone,
)
from relay.config.plugins import (
    RegisteredSink,
    Registry,
    source_file,
)
from relay.config.plugins import (
    load as load_plugins,
)
from relay.config.sources import SourceChecker, error_kind
from relay.config.timelimit import MAKE, limited
from relay.event import Event
from relay.fsutil import path_from_utf8
from relay.sink import Options, Sink
from relay.source import Source
from relay.state_directory import StateDirectory
from relay.suggest import suggestion
from relay.templating.evaluation import Blank, is_blank
from relay.templating.expressions import (
    BLANK_CONSTANT,
    Compiler,
    Condition,
    ExpressionError,
    RecordMap,
)
from relay.units import IPNetwork, Rate
from relay.validation import REFUSED_FROM, Location

__all__ = ["Config", "ConfigError", "LocatedIssue", "SinkConfig", "SourceConfig", "load"]

HELD = RegisteredSink("", Sink, "")
"""In place of the plugin of a held sink."""

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Batch:
    """At most `size` deliveries are sent together. The first waits `wait` seconds for others."""

    size: int
    wait: float


@dataclass(frozen=True, slots=True)
class SinkConfig:
    """The checked settings of one sink."""

    name: str
    plugin: str
    sink_class: type[Sink]
    enabled: bool
    when: Condition | None
    map: RecordMap | None
    options: Options = field(repr=False)
    batch: Batch
    concurrency: int
    rate: Rate | None
    timeout: float
    order: Literal["contact", "none"]
    retry: RetrySettings
    breaker: BreakerSettings
    allow_private: list[IPNetwork]
    blank: Blank = "keep"
    drops_invalid: bool = False
    held: str | None = None
    """Why deliveries are only queued. The class and the options are empty then."""
    held_for_consent: bool = False
    """Whether the options of a held sink have `consent`."""

    def takes_consent(self, event: Event) -> bool:
        """Whether the sink writes the consent of this event, whatever `when` says."""
        if event.consent is None:
            return False
        if self.held is not None:
            return self.held_for_consent
        try:
            return self.sink_class.takes_consent(self.options, event)
        except Exception:  # noqa: BLE001  a plugin may raise anything, and an opt-out must arrive
            return True

    def record(self, event: Event, opted_out: bool) -> tuple[dict[str, Any], list[str]]:
        """The record by `map`, and the fields that were dropped. Raises EvaluationError."""
        if self.map is None:
            return event.to_dict(), []
        if not self.drops_invalid:
            return self.map.record(event, opted_out), []
        dropped: list[str] = []
        return self.map.record(event, opted_out, dropped), dropped

    def matches(self, event: Event, opted_out: bool) -> bool:
        """Whether the sink's `when` matches. Raises EvaluationError."""
        return self.when is None or self.when.matches(event, opted_out)

    def gets(self, event: Event, opted_out: bool) -> bool:
        """Whether the event is delivered to the sink. Raises EvaluationError."""
        return self.takes_consent(event) or self.matches(event, opted_out)


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
    compiler = Compiler(_timezone(document.part("timezone")))
    crosschecks.check_listeners(document)
    crosschecks.check_store(document)
    crosschecks.check_tracing(document)
    sinks = {
        name: _SinkChecker(document, name, compiler, registry, held.get(name))
        for name in document.names("sinks")
    }
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


class _SinkChecker:
    """Checks of one sink beyond the model: its plugin, options and expressions."""

    def __init__(
        self,
        document: Document,
        name: str,
        compiler: Compiler,
        registry: Registry,
        held: str | None,
    ) -> None:
        self.document = document
        self.name = name
        self.compiler = compiler
        self.held = held
        self.registered = self._registered(registry) if held is None else HELD
        self.blank = self._blank()
        self.options = self._options() if held is None else Options()
        self.when = self._compiled("when", str, compiler.condition)
        self.map = self._compiled("map", dict, partial(compiler.mapping, blank=self.blank))
        self._check_constants()
        self.limit = self._limit()

    def config(self, settings: SinkSettings) -> SinkConfig:
        """The checked settings, once the document has no issue."""
        assert self.registered is not None
        assert self.options is not None
        return SinkConfig(
            name=self.name,
            plugin=settings.plugin,
            sink_class=self.registered.sink_class,
            enabled=settings.enabled,
            when=self.when,
            map=self.map,
            options=self.options,
            batch=Batch(settings.batch.size or self.limit, settings.batch.wait),
            concurrency=settings.concurrency,
            rate=settings.rate,
            timeout=settings.timeout,
            order=settings.order,
            retry=settings.retry,
            breaker=settings.breaker,
            allow_private=settings.allow_private,
            blank=self.blank,
            drops_invalid=self.registered.sink_class.drops_invalid(self.options),
            held=self.held,
            held_for_consent=self.held is not None and self._speaks_of_consent(),
        )

    def _speaks_of_consent(self) -> bool:
        return self.document.raw(*self._at("options", "consent")) is not None

    def _at(self, *rest: str | int) -> Location:
        return ("sinks", self.name, *rest)

    def _add_issue(self, message: str, *rest: str | int) -> None:
        self.document.add_issues([Issue(self._at(*rest), message)])

    def _registered(self, registry: Registry) -> RegisteredSink | None:
        plugin = self.document.part(*self._at("plugin"))
        if not isinstance(plugin, str):
            return None
        if plugin not in registry.sinks and plugin not in registry.broken():
            hint = suggestion(plugin, registry.sinks)
            self._add_issue(f"there is no such plugin{hint}", "plugin")
        return registry.sinks.get(plugin)

    def _options(self) -> Options | None:
        options = self.document.part(*self._at("options")) or {}
        if self.registered is None or not isinstance(options, dict):
            return None
        context = {
            "environment": self.compiler,
            "folder": self.document.folder,
            "blank": self.blank,
        }
        model = self.registered.sink_class.Options
        try:
            with self._limited("the check of the options"):
                return self.document.validate(model, options, self._at("options"), context)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  a plugin's validator can raise anything
            self._add_issue(f"the plugin fails to check them: {error_kind(error)}", "options")
            return None

    def _limited(self, what: str) -> contextlib.AbstractContextManager[None]:
        """A time limit for the plugin's code."""
        assert self.registered is not None
        file = source_file(self.registered.sink_class)
        return limited(f"{what} of the sink {self.name} ({file})", MAKE)

    def _blank(self) -> Blank:
        """What becomes of blank values: the setting of the sink, else that of its plugin."""
        asked: Any = self.document.part(*self._at("blank"))
        if asked in get_args(Blank):
            return cast("Blank", asked)
        return self.registered.sink_class.blank if self.registered else "keep"

    def _check_constants(self) -> None:
        """Refuse blank constants, which have no use unless blank values are kept."""
        values = self.document.part(*self._at("map"))
        if self.blank != "keep" and isinstance(values, dict):
            self.document.add_issues(
                Issue(self._at("map", name), BLANK_CONSTANT, refused_from=REFUSED_FROM)
                for name, value in values.items()
                if is_blank(value)
            )

    def _compiled(self, key: str, kind: type[S], compiler: Callable[[S], T]) -> T | None:
        value = self.document.part(*self._at(key))
        if key == "when" and isinstance(value, bool):
            value = str(value).lower()
        if not isinstance(value, kind):
            return None
        try:
            return compiler(value)
        except ExpressionError as error:
            self.document.add_issues(
                Issue(self._at(key, *location), message) for location, message in error.errors
            )
            return None

    def _call(self, method: str, refused_from: str | None = None) -> Any:
        """The result of a class method of the sink for its options; None if it cannot be called."""
        if self.registered is None or self.options is None or self.held is not None:
            return None
        try:
            with self._limited(method):
                return getattr(self.registered.sink_class, method)(self.options)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  a plugin may raise anything
            message = f"the plugin's {method} fails: {error_kind(error)}"
            self.document.add_issues([Issue(self._at("options"), message, None, refused_from)])
            return None

    def own_files(self) -> list[Path]:
        """The files that no other sink may write."""
        return [Path(each) for each in self._call("own_files", REFUSED_FROM) or ()]

    def _limit(self) -> int:
        """The largest batch that the sink takes. `batch.size` may not be above it."""
        if (limit := self._call("batch_limit")) is None:
            return 1
        size = self.document.part(*self._at("batch", "size"))
        if isinstance(size, int) and size > limit:
            self._add_issue(
                f"should be at most {limit}, which is all that the sink takes at once",
                "batch",
                "size",
            )
        return cast("int", limit)


def _check_together(
    document: Document, settings: Settings, sinks: Mapping[str, _SinkChecker]
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
