"""The standing of a configuration: how what the relay runs with stands to relay.yaml."""

from collections.abc import Sequence
from typing import Any

from relay.config.loader import Config

CURRENT = "current"
OUTDATED = "outdated"
LAST_VALID = "last_valid"


class Standing:
    """`problems` are those of relay.yaml, while the relay goes on with what it had read before."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.problems = list(config.problems)

    def refuse(self, problems: Sequence[str]) -> None:
        """relay.yaml was to be read anew, and is wrong."""
        self.problems = list(problems)

    @property
    def state(self) -> str:
        if self.config.problems:
            return LAST_VALID
        return OUTDATED if self.problems or self._edited() else CURRENT

    def view(self) -> dict[str, Any]:
        """As `status` shows it; outdated without a problem is what has been edited since."""
        return {
            "state": self.state,
            "problems": self.problems,
            "warnings": list(self.config.warnings),
        }

    def facts(self) -> dict[str, float]:
        """For the metrics."""
        return {"relay_configuration_valid": float(not self.problems)}

    def notices(self) -> list[str]:
        """For those who ask whether the relay is well."""
        return [f"configuration: {problem}; {self._instead()}" for problem in self.problems]

    def complaints(self) -> list[str]:
        """For the log: what is wrong, what the relay does instead, and what it does not."""
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
