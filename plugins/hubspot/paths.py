"""Where things are: HubSpot's paths by the version of its API (a date, or v3)."""

from dataclasses import dataclass

LEGACY, FIRST_DATED = "v3", "2025-09"


@dataclass(frozen=True, slots=True)
class Paths:
    """`kind` is an object type: `contacts`, `communications`, `2-123`."""

    version: str

    def objects(self, kind: str, action: str = "") -> str:
        """The records of a kind; `action` as in `batch/upsert`."""
        head = self._crm("objects", kind)
        return f"{head}/{action}" if action else head

    def properties(self, kind: str, rest: str = "") -> str:
        return self._crm("properties", kind) + rest

    def associations(self, kind: str, other: str) -> str:
        """Where records of one kind are tied to those of another."""
        return f"{self._pair(kind, other)}/batch/create"

    def labels(self, kind: str, other: str) -> str:
        """The types of association between two kinds."""
        return f"{self._pair(kind, other)}/labels"

    def lists(self) -> str:
        return "/crm/v3/lists" if self._legacy else f"/crm/lists/{self.version}"

    def members(self, list_id: str) -> str:
        """Where records are added to a list."""
        return f"{self.lists()}/{list_id}/memberships/add"

    def events(self) -> str:
        """Where custom events are sent."""
        return f"{self._events()}/send/batch"

    def definition(self, name: str) -> str:
        """What a custom event is defined as."""
        return f"{self._events()}/event-definitions/{name}"

    def token(self) -> str:
        return "/oauth/v1/token" if self._legacy else f"/oauth/{self.version}/token"

    @property
    def _legacy(self) -> bool:
        return self.version == LEGACY

    def _pair(self, kind: str, other: str) -> str:
        head = "/crm/v4/associations" if self._legacy else f"/crm/associations/{self.version}"
        return f"{head}/{kind}/{other}"

    def _events(self) -> str:
        """HubSpot's public specifications have another path for the first version with a date."""
        own = "custom/" if self.version == FIRST_DATED else ""
        return f"/events/{own}{self.version}"

    def _crm(self, what: str, kind: str) -> str:
        return f"/crm/v3/{what}/{kind}" if self._legacy else f"/crm/{what}/{self.version}/{kind}"
