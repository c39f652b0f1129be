"""Sources of relay.yaml: the plugin of each, its options, and the object that the plugin makes."""

import logging
from collections.abc import Mapping
from typing import Any

from relay.config.document import Document
from relay.config.errors import Issue
from relay.config.model import DEFAULT_SOURCE, SUMOTEXT_OPTIONS, SourceConfig
from relay.config.plugins import RegisteredSource, Registry, source_file
from relay.config.timelimit import MAKE, error_kind, limited
from relay.event import Event, InvalidCallback, RawCallback
from relay.sink import Options
from relay.source import Answer, Request, Source
from relay.suggest import suggestion

BESIDE = "stands beside `plugin`, not under `options`"
UNDER = "is an option of the plugin sumotext; those of {} stand under `options`"


class HeldSource(Source):
    """In place of a source that cannot be made: its callbacks are refused with 503."""

    authenticates = True

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, Options(), logging.getLogger(f"relay.sources.{name}"))
        self.reason = reason

    def verify(self, request: Request) -> Answer | None:  # noqa: ARG002  all are the same to it
        raise RuntimeError(self.reason)

    def parse(self, callback: RawCallback) -> Event:  # noqa: ARG002  all are the same to it
        raise InvalidCallback(self.reason)


class SourceChecker:
    """Checks of one source beyond the model: its plugin and options.

    `settings` are the values of the model; None if relay.yaml has an issue. With a reason in
    `held`, the plugin and the options are not checked.
    """

    def __init__(
        self,
        document: Document,
        name: str,
        registry: Registry,
        settings: SourceConfig | None,
        held: str | None = None,
    ) -> None:
        self._document = document
        self._name = name
        self._settings = settings
        self._registry = registry
        self.source: Source = HeldSource(name, held or "its plugin cannot be used")
        self.authenticates = held is not None
        """Whether it checks by itself who sends: then others may reach it without a token."""
        if held is None and (registered := self._registered()):
            self.authenticates = bool(registered.source_class.authenticates)
            self._check_places(registered)
            options = self._options(registered)
            if options is not None and settings is not None:
                self._make(registered, options)

    def _part(self, *rest: str) -> Any:
        return self._document.part("sources", self._name, *rest)

    def _add_issue(self, message: str, *rest: str) -> None:
        self._document.add_issues([Issue(("sources", self._name, *rest), message)])

    def _registered(self) -> RegisteredSource | None:
        plugin = DEFAULT_SOURCE if (given := self._part("plugin")) is None else given
        if not isinstance(plugin, str):
            return None
        known = self._registry.sources
        if plugin not in known and plugin not in self._registry.broken():
            self._add_issue(f"there is no such plugin{suggestion(plugin, known)}", "plugin")
        return known.get(plugin)

    def _check_places(self, registered: RegisteredSource) -> None:
        """Add issues for options in the place for those of another plugin."""
        given, options = self._part(), self._part("options")
        for name in SUMOTEXT_OPTIONS:
            if registered.name != DEFAULT_SOURCE and isinstance(given, dict) and name in given:
                self._add_issue(UNDER.format(registered.name), name)
            if registered.name == DEFAULT_SOURCE and isinstance(options, dict) and name in options:
                self._add_issue(BESIDE, "options", name)

    def _options(self, registered: RegisteredSource) -> Options | None:
        options = self._part("options") or {}
        if not isinstance(options, dict):
            return None
        if registered.name == DEFAULT_SOURCE:
            options = {**options, **self._flat(registered)}
        location = ("sources", self._name, "options")
        context = {"folder": self._document.folder}
        try:
            with limited(self._what("the check of the options", registered), MAKE):
                model = registered.source_class.Options
                return self._document.validate(model, options, location, context)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  a plugin's validator can raise anything
            self._add_issue(f"the plugin fails to check them: {error_kind(error)}", "options")
            return None

    def _flat(self, registered: RegisteredSource) -> Mapping[str, Any]:
        """The options beside `plugin`, as far as the plugin has them."""
        known = registered.source_class.Options.model_fields
        settings = self._settings
        names = known.keys() & SUMOTEXT_OPTIONS if settings else ()
        return {name: getattr(settings, name) for name in names}

    def _make(self, registered: RegisteredSource, options: Options) -> None:
        log = logging.getLogger(f"relay.sources.{self._name}")
        try:
            with limited(self._what("__init__", registered), MAKE):
                source = registered.source_class(self._name, options, log)
                self.authenticates = bool(source.authenticates)
                self.source = source
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  it is the plugin's
            if self._document.strict:  # else an option may only lack its filling in
                self._add_issue(f"the plugin {registered.name} cannot make it: {error_kind(error)}")

    def _what(self, step: str, registered: RegisteredSource) -> str:
        return f"{step} of the source {self._name} ({source_file(registered.source_class)})"
