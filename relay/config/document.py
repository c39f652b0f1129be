"""One relay.yaml as a document: its values, and the issues found so far."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from relay.config.errors import ConfigError, Issue, LocatedIssue, issues_of
from relay.config.interpolate import fill
from relay.config.yaml import parse
from relay.validation import WITHOUT_NEW_RULES, Location, dotted

ECHO = 4
"""A message shows fewer consecutive characters of an interpolated value."""

M = TypeVar("M", bound=pydantic.BaseModel)


class Document:
    """The interpolated values of a file, with the issues found in them.

    Issues are collected, not raised, so that one wrong part hides no other. `origin` is the
    relay.yaml in place of which the file at `path` is read. `strict` makes an unfilled placeholder
    an issue. `known`: the relay has run with this content before, so that an issue of a new rule
    is a warning.
    """

    def __init__(
        self,
        path: Path,
        environ: Mapping[str, str],
        *,
        strict: bool,
        origin: Path | None = None,
        known: bool = False,
    ) -> None:
        self.path = path
        self.origin = origin or path
        self.folder = self.origin.absolute().parent
        self.strict = strict
        self.text = _content(path)
        self._parsed = parse(self.text)
        self._filled = fill(self._parsed.value, environ, self.folder)
        self.issues: list[Issue] = []
        self.warnings: list[Issue] = []
        self.known = known
        for issue in self._parsed.issues:
            (self.warnings if known and issue.refused_from else self.issues).append(issue)
        self.issues += self._filled.issues if strict else []

    @property
    def values(self) -> Any:
        """The interpolated values; an empty mapping for an empty file."""
        return {} if self._filled.value is None else self._filled.value

    def part(self, *location: str | int) -> Any:
        """The interpolated value at the location; None where there is none."""
        return _part(self.values, location)

    def names(self, section: str) -> list[str]:
        """The keys of the mapping of that name."""
        value = self.part(section)
        return list(value) if isinstance(value, dict) else []

    def validate(
        self,
        model: type[M],
        value: Any,
        location: Location = (),
        context: Mapping[str, Any] | None = None,
    ) -> M | None:
        """The value as a model; None if it is wrong, with an issue for each reason."""
        try:
            return model.model_validate(value, context=context)
        except pydantic.ValidationError as error:
            found = issues_of(error, model, value)
        issues = [replace(each, location=(*location, *each.location)) for each in found]
        if self.known and all(each.refused_from for each in issues):
            self.add_issues(issues)
            return self.validate(model, value, location, {**(context or {}), **WITHOUT_NEW_RULES})
        if self.strict or not all(self._placeholders(each.location) for each in issues):
            self.add_issues(issues)
            return None
        return _without(model, value, [each.location for each in found], context)

    def add_issues(self, issues: Iterable[Issue]) -> None:
        """Add issues. At an unfilled placeholder, that placeholder is the only issue."""
        for issue in issues:
            if placeholders := self._placeholders(issue.location):
                self.issues += [each for each in placeholders if each not in self.issues]
            elif self.known and issue.refused_from:
                self.warnings.append(self._redacted(issue))
            else:
                self.issues.append(self._redacted(issue))

    def drop(self, *location: str | int) -> None:
        """Remove a part and the issues in it."""
        *above, last = location
        if isinstance(around := self.part(*above), dict):
            around.pop(last, None)
        self.discard_issues(*location)

    def unfilled(self, *location: str | int) -> list[Location]:
        """The locations of placeholders without a value in this part."""
        return [each.location for each in self._placeholders(location)]

    def replace(self, value: Any, *location: str | int) -> None:
        """Replace a value, and discard the issues of the old one."""
        *above, last = location
        around = self.values
        for key in above:
            around = around[key]
        around[last] = value
        self.discard_issues(*location)

    def raw(self, *location: str | int) -> Any:
        """The value in the file, not interpolated."""
        return _part(self._parsed.value, location)

    def discard_issues(self, *location: str | int) -> None:
        """Discard the issues of a part."""
        for issues in (self.issues, self._filled.issues):
            issues[:] = [each for each in issues if not _beneath(each.location, location)]

    def error(self) -> ConfigError:
        """All issues in the order of their lines, each once."""
        old = {(each.location, each.message) for each in self.issues if not each.refused_from}
        return ConfigError(
            self.located(
                each
                for each in self.issues
                if not each.refused_from or (each.location, each.message) not in old
            )
        )

    def located(self, issues: Iterable[Issue]) -> list[LocatedIssue]:
        """The issues with their lines, in the order of those."""
        found = [
            LocatedIssue(
                self.path,
                each.line or self._parsed.line(each.location),
                dotted(each.location),
                each.message,
                each.refused_from,
            )
            for each in issues
        ]
        return sorted(found, key=lambda issue: issue.line or 0)

    def _placeholders(self, location: Location) -> list[Issue]:
        """Issues of unfilled placeholders at the location or beneath it."""
        return [each for each in self._filled.issues if _beneath(each.location, location)]

    def _redacted(self, issue: Issue) -> Issue:
        for place, secrets in self._filled.secrets.items():
            if _beneath(place, issue.location) and _echoes(issue.message, secrets):
                message = "is not right; its value was filled in, so it is not shown here"
                return replace(issue, message=message)
        return issue


def _part(value: Any, location: Location) -> Any:
    for key in location:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        raise ConfigError([LocatedIssue(path, None, "", message)]) from None


def _beneath(place: Location, location: Location) -> bool:
    return place[: len(location)] == location


def _echoes(message: str, secrets: Iterable[str]) -> bool:
    for secret in secrets:
        matcher = SequenceMatcher(None, message, secret, autojunk=False)
        shared = matcher.find_longest_match().size
        if 0 < min(ECHO, len(secret)) <= shared:
            return True
    return False


def _without(
    model: type[M], value: Any, places: Iterable[Location], context: Mapping[str, Any] | None
) -> M:
    """The model without the values that have unfilled placeholders."""
    # The last first: indexes before it in a list stay valid.
    for *parents, last in sorted(filter(None, set(places)), reverse=True):
        inner = value
        for part in parents:
            inner = inner[part]
        del inner[last]
    try:
        return model.model_validate(value, context=context)
    except pydantic.ValidationError:
        return model.model_construct(**value)  # a required value is among them
