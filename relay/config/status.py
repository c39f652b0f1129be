"""Config status: whether the configuration in use is that of relay.yaml, and what is wrong."""

from collections.abc import Sequence
from typing import Any

from relay.config.loader import Config

CURRENT = "current"
OUTDATED = "outdated"
LAST_VALID = "last_valid"


class ConfigStatus:
    """The status of the configuration in use. `problems` are what is wrong with relay.yaml.

    While there are any, the relay uses what it read before.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.problems = list(config.problems)

    def refuse(self, problems: Sequence[str]) -> None:
        """Note the problems of a relay.yaml that a reload has found wrong."""
        self.problems = list(problems)

    @property
    def state(self) -> str:
        if self.config.problems:
            return LAST_VALID
        return OUTDATED if self.problems or self._edited() else CURRENT

    def view(self) -> dict[str, Any]:
        """The status as JSON. `outdated` without a problem: the file was edited since."""
        return {
            "state": self.state,
            "problems": self.problems,
            "warnings": list(self.config.warnings),
        }

    def facts(self) -> dict[str, float]:
        """The values for the metrics."""
        return {"relay_configuration_valid": float(not self.problems)}

    def notices(self) -> list[str]:
        """The sentences for the health page."""
        return [f"configuration: {problem}; {self._instead()}" for problem in self.problems]

    def complaints(self) -> list[str]:
        """The lines for the log: what is wrong, what is used instead, which sinks are held."""
        if not self.problems:
            return []
        held = [
            f"sink {name} is held, its deliveries are queued: {sink.held}"
            for name, sink in self.config.sinks.items()
            if sink.held is not None
        ]
        return [*self.problems, f"{self.config.path} is wrong: {self._instead()}", *held]

    def _instead(self) -> str:
        kind = "the last valid one" if self.config.problems else "what was read before"
        return f"the relay goes on with {kind}"

    def _edited(self) -> bool:
        try:
            return self.config.path.read_bytes() != self.config.text
        except OSError:
            return True
