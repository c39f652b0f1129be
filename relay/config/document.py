"""The reading of one relay.yaml: its values, and the mistakes found so far."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from relay.config.errors import ConfigError, Mistake, Problem
from relay.config.interpolate import fill
from relay.config.messages import worded
from relay.config.yaml import parse
from relay.validation import WITHOUT_NEW_RULES, Location, dotted

ECHO = 4
"""A message shows fewer characters than these of a value that was filled in."""


Model = TypeVar("Model", bound=pydantic.BaseModel)


class Reading:
    """Gathers mistakes instead of raising, so that one wrong part hides no other.

    `origin` is the relay.yaml that the file at `path` is read in place of. `known` says that the
    relay has run with this content before: what only a new rule finds wrong is a warning then.
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
        self._document = parse(self.text)
        self._filled = fill(self._document.value, environ, self.folder)
        self.mistakes: list[Mistake] = []
        self.warnings: list[Mistake] = []
        self.known = known
        for mistake in self._document.mistakes:
            (self.warnings if known and mistake.refused_from else self.mistakes).append(mistake)
        self.mistakes += self._filled.mistakes if strict else []

    @property
    def values(self) -> Any:
        """What the file says, filled in; nothing is an empty mapping."""
        return {} if self._filled.value is None else self._filled.value

    def part(self, *location: str | int) -> Any:
        """The value at the place; None where there is none."""
        return _part(self.values, location)

    def names(self, section: str) -> list[str]:
        """What the mapping of that name has entries for."""
        value = self.part(section)
        return list(value) if isinstance(value, dict) else []

    def validated(
        self,
        model: type[Model],
        value: Any,
        location: Location = (),
        context: Mapping[str, Any] | None = None,
    ) -> Model | None:
        """The value as a model; None where it is wrong, which is then among the mistakes."""
        try:
            return model.model_validate(value, context=context)
        except pydantic.ValidationError as error:
            found = worded(error, model, value)
        mistakes = [replace(each, location=(*location, *each.location)) for each in found]
        if self.known and all(each.refused_from for each in mistakes):
            self.complain(mistakes)
            return self.validated(model, value, location, {**(context or {}), **WITHOUT_NEW_RULES})
        if self.strict or not all(self._placeholders(each.location) for each in mistakes):
            self.complain(mistakes)
            return None
        return _without(model, value, [each.location for each in found], context)

    def complain(self, mistakes: Iterable[Mistake]) -> None:
        """Add mistakes; where a placeholder was not filled in, that alone is the mistake."""
        for mistake in mistakes:
            if placeholders := self._placeholders(mistake.location):
                self.mistakes += [each for each in placeholders if each not in self.mistakes]
            elif self.known and mistake.refused_from:
                self.warnings.append(self._discreet(mistake))
            else:
                self.mistakes.append(self._discreet(mistake))

    def leave_out(self, *location: str | int) -> None:
        """Take a part away, with the mistakes in it."""
        *above, last = location
        if isinstance(around := self.part(*above), dict):
            around.pop(last, None)
        self.forgive(*location)

    def unfilled(self, *location: str | int) -> list[Location]:
        """Where a placeholder in this part has nothing to be filled with."""
        return [each.location for each in self._placeholders(location)]

    def put(self, value: Any, *location: str | int) -> None:
        """Have another value in a place, and forgive what was wrong with the old one."""
        *above, last = location
        around = self.values
        for key in above:
            around = around[key]
        around[last] = value
        self.forgive(*location)

    def described(self, *location: str | int) -> Any:
        """What the file itself has at the place, not filled in."""
        return _part(self._document.value, location)

    def forgive(self, *location: str | int) -> None:
        """Take the mistakes away that were found in a part so far."""
        for mistakes in (self.mistakes, self._filled.mistakes):
            mistakes[:] = [each for each in mistakes if not _beneath(each.location, location)]

    def error(self) -> ConfigError:
        """All the mistakes, in the order of their lines; none that another rule finds, too."""
        old = {(each.location, each.message) for each in self.mistakes if not each.refused_from}
        return ConfigError(
            self.problems(
                each
                for each in self.mistakes
                if not each.refused_from or (each.location, each.message) not in old
            )
        )

    def problems(self, mistakes: Iterable[Mistake]) -> list[Problem]:
        """The mistakes at their lines, in the order of those."""
        found = [
            Problem(
                self.path,
                each.line or self._document.line(each.location),
                dotted(each.location),
                each.message,
                each.refused_from,
            )
            for each in mistakes
        ]
        return sorted(found, key=lambda problem: problem.line or 0)

    def _placeholders(self, location: Location) -> list[Mistake]:
        """The placeholders that still stand at the place or beneath it."""
        return [each for each in self._filled.mistakes if _beneath(each.location, location)]

    def _discreet(self, mistake: Mistake) -> Mistake:
        for place, secrets in self._filled.secrets.items():
            if _beneath(place, mistake.location) and _echoes(mistake.message, secrets):
                message = "is not right; its value was filled in, so it is not shown here"
                return replace(mistake, message=message)
        return mistake


def _part(value: Any, location: Location) -> Any:
    for key in location:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        raise ConfigError([Problem(path, None, "", message)]) from None


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
    model: type[Model], value: Any, places: Iterable[Location], context: Mapping[str, Any] | None
) -> Model:
    """The model without the values that only lack their filling in."""
    # The last first, so that the numbers of the others in a list still hold.
    for *parents, last in sorted(filter(None, set(places)), reverse=True):
        inner = value
        for part in parents:
            inner = inner[part]
        del inner[last]
    try:
        return model.model_validate(value, context=context)
    except pydantic.ValidationError:
        return model.model_construct(**value)  # a required option is among them
