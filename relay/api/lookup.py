"""The sinks that a question names, or why they are not for it."""

from collections.abc import Mapping

from relay.api.responses import Refused
from relay.config.loader import SinkConfig
from relay.store import Store


class Named:
    """`sinks` are those of relay.yaml; the store also knows those that have gone from it."""

    def __init__(self, sinks: Mapping[str, SinkConfig], store: Store) -> None:
        self.sinks = sinks
        self._store = store

    def sink(self, name: str) -> SinkConfig:
        """The sink. Raises Refused where relay.yaml has none."""
        if sink := self.sinks.get(name):
            return sink
        known = ", ".join(self.sinks) or "none"
        raise Refused(404, f"no sink {name} in relay.yaml (known: {known})")

    def enabled(self, name: str) -> SinkConfig:
        """One that delivers. Raises Refused where it does not."""
        sink = self.sink(name)
        if not sink.enabled:
            raise Refused(409, f"the sink {name} is disabled; enable it in relay.yaml first")
        if sink.held is not None:
            raise Refused(409, f"the sink {name} is held: {sink.held}; mend relay.yaml first")
        return sink

    async def check_remembered(self, name: str) -> None:
        """Raises Refused where no such sink ever had anything to deliver."""
        if name not in await self._store.sink_counts():
            raise Refused(404, f"no sink {name} ever had a delivery")
