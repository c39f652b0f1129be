"""The parts of a batch: one that is refused as a whole is halved until the bad one stands alone."""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from relay.delivery.sender import STREAK

T = TypeVar("T")


class Parts(Generic[T]):
    """What is still to be sent, a part at a time."""

    def __init__(self, items: Sequence[T], most: int) -> None:
        starts = range(0, len(items), most)
        self._waiting = deque(items[start : start + most] for start in starts)
        self._refused = 0
        self._accepted = False

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def next(self) -> Sequence[T]:
        return self._waiting.popleft()

    def put(self, parts: Iterable[Sequence[T]]) -> None:
        """These come next, in their order."""
        self._waiting.extendleft(reversed(list(parts)))

    def rest(self) -> list[T]:
        """All that has not been sent."""
        return [item for part in self._waiting for item in part]

    def note(self, part: Sequence[T], *, accepted: bool, refused: bool) -> None:
        """What became of a part; `refused` where settings may be the cause."""
        self._accepted |= accepted
        self._refused += refused and len(part) == 1

    @property
    def hopeless(self) -> bool:
        """So many were refused alone, and none was taken: it is not the records' fault."""
        return not self._accepted and self._refused >= STREAK


def halves(part: Sequence[T]) -> list[Sequence[T]]:
    middle = len(part) // 2
    return [part[:middle], part[middle:]]
