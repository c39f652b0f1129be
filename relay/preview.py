"""Preview: what a sink would get of an event, by the configuration of today."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from relay.config.sinks import SinkConfig
from relay.event import Event
from relay.templating.expressions import EvaluationError


@dataclass(frozen=True, slots=True)
class Preview:
    """`record` is None where the sink gets nothing, or the word of consent alone (`consent`).

    It gets nothing where it is disabled, its `when` does not match, or there is an `error`.
    """

    sink: str
    enabled: bool
    matches: bool
    record: dict[str, Any] | None = None
    error: str | None = None
    consent: bool = False
    dropped: Sequence[str] = ()

    @property
    def verdict(self) -> str:
        """In a few words, what becomes of the event in this sink."""
        if self.error:
            return f"fails, {self.error}{' (the word of consent is written)' * self.consent}"
        if not self.enabled:
            return "nothing, as it is disabled"
        if self.consent and not self.matches:
            return "the word of consent alone, as `when` does not match"
        if not self.matches:
            return "nothing, as `when` does not match"
        return "; ".join(["gets", *(f"without {each}" for each in self.dropped)])

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def preview_all(sinks: Iterable[SinkConfig], event: Event, opted_out: bool) -> list[Preview]:
    """What each of the sinks would get."""
    return [preview(sink, event, opted_out) for sink in sinks]


def preview(sink: SinkConfig, event: Event, opted_out: bool) -> Preview:
    """What the sink would get."""
    consent = sink.takes_consent(event)
    shown = partial(Preview, sink.name, sink.enabled, consent=consent)
    try:
        if not sink.matches(event, opted_out):
            return shown(matches=False)
    except EvaluationError as error:
        return shown(matches=False, error=f"when: {error}")
    try:
        record, dropped = sink.record(event, opted_out)
    except EvaluationError as error:
        return shown(matches=True, error=f"map: {error}")
    return shown(matches=True, record=record if sink.enabled else None, dropped=dropped)
