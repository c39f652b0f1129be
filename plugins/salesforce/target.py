"""The target: where rows go, and by which request."""

from dataclasses import dataclass
from typing import Any

from .row import Row

COLLECTIONS = "composite/sobjects"


@dataclass(frozen=True, slots=True)
class Target:
    """Where rows go: upserted by `external_id`, or only ever inserted where that is empty."""

    object: str
    external_id: str = ""

    def request(self, row: Row) -> tuple[str, str]:
        """Method and path for the row: one that has an id is updated."""
        if row.id is not None:
            return "PATCH", COLLECTIONS
        if self.external_id:
            return "PATCH", f"{COLLECTIONS}/{self.object}/{self.external_id}"
        return "POST", COLLECTIONS

    def record(self, row: Row) -> dict[str, Any]:
        key = {self.external_id: row.key} if self.external_id and not row.has_key else {}
        known = {} if row.id is None else {"id": row.id}
        return {"attributes": {"type": self.object}, **known, **key, **row.fields}
