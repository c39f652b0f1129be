"""The standing of a configuration: how what the relay runs with stands to relay.yaml."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from relay.config import Config

CURRENT = "current"
OUTDATED = "outdated"
LAST_VALID = "last_valid"


@dataclass(slots=True)
class Standing:
    """`problems` are those of relay.yaml, while the relay goes on with what it had read before.

    `last_valid` says that relay.yaml was wrong when the relay started already.
    """

    config: Config
    problems: Sequence[str] = field(default=())
    last_valid: bool = False

    def refuse(self, problems: Sequence[str]) -> None:
        """relay.yaml was to be read anew, and is wrong."""
        self.problems = list(problems)

    @property
    def state(self) -> str:
        if self.last_valid:
            return LAST_VALID
        return OUTDATED if self.problems or self._edited() else CURRENT

    def view(self) -> dict[str, Any]:
        """As `status` shows it; outdated without a problem is what has been edited since."""
        return {"state": self.state, "problems": list(self.problems)}

    def facts(self) -> dict[str, float]:
        """For the metrics."""
        return {"relay_configuration_valid": float(not self.problems)}

    def notices(self) -> list[str]:
        """For those who ask whether the relay is well."""
        return [f"configuration: {problem}" for problem in self.problems]

    def _edited(self) -> bool:
        try:
            return self.config.path.read_bytes() != self.config.text
        except OSError:
            return True
