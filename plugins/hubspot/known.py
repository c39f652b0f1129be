"""The keys that are known to be in HubSpot, so that nobody is looked for twice."""

from collections import OrderedDict

from relay.caching import short_key

MOST = 50_000


class Known:
    """The ids of records by their keys; the longest unused go first."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._ids: OrderedDict[str, str] = OrderedDict()

    def get(self, key: str) -> str | None:
        key = short_key(key)
        if key in self._ids:
            self._ids.move_to_end(key)
        return self._ids.get(key)

    def learn(self, key: str, record_id: str) -> None:
        key = short_key(key)
        self._ids[key] = record_id
        self._ids.move_to_end(key)
        if len(self._ids) > self._most:
            self._ids.popitem(last=False)
