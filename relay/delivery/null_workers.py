"""The sinks' workers, as far as the commands concern them."""

from typing import Any, Protocol

from relay.account import Accounts
from relay.sink import Sink
from relay.store import SinkState, Store


class Workers(Protocol):
    """What the running service offers."""

    accounts: Accounts

    async def pause(self, name: str, reason: str) -> None:
        """Deliver nothing more to the sink until `resume`."""

    async def resume(self, name: str) -> None:
        """Deliver again, at once. Raises PluginError where the sink cannot be made."""

    def sink(self, name: str) -> Sink | None:
        """The sink itself, where it is at work."""

    def states(self) -> dict[str, dict[str, Any]]:
        """For each running worker `state`, and `reason` where there is one."""

    def wake(self, name: str) -> None:
        """There may be something to deliver."""


class NoWorkers:
    """Stands for the workers where no service runs: pauses are written down for the next."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.accounts = Accounts(store)

    async def pause(self, name: str, reason: str) -> None:
        state = await self._state(name)
        state.paused, state.paused_by_operator = reason, True
        await self._store.save_sink_state(name, state)

    async def resume(self, name: str) -> None:
        state = await self._state(name)
        await self._store.save_sink_state(name, SinkState(active=state.active))

    def sink(self, name: str) -> Sink | None:  # noqa: ARG002  there is none
        return None

    def states(self) -> dict[str, dict[str, Any]]:
        return {}

    def wake(self, name: str) -> None:
        """Nobody sleeps."""

    async def _state(self, name: str) -> SinkState:
        return (await self._store.sink_states()).get(name) or SinkState()
