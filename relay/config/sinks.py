"""Sinks of relay.yaml: the checked settings of each, with its plugin, options and expressions."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

from relay.config.document import Document
from relay.config.errors import Issue
from relay.config.model import BreakerSettings, RetrySettings, SinkSettings
from relay.config.plugins import RegisteredSink, Registry, source_file
from relay.config.timelimit import MAKE, error_kind, limited
from relay.event import Event
from relay.sink import Options, Sink
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


class SinkChecker:
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
