"""The pages of a vendor's list, which has to come to an end."""

from relay.outcome import Retry


class Pages:
    """Counts the pages of one list, which may be `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 1
        self._mark: str | None = None

    def turn(self, mark: str, results: int) -> None:
        """A page brought so many results, and the next one is to be asked for by `mark`.

        Raises Retry where that would never end.
        """
        if not results or mark == self._mark:
            raise Retry("a page of its list brings nothing, and names another as the next")
        self._mark = mark
        self._count += 1
        if self._count > self._most:
            raise Retry(f"its list has more than {self._most:,} pages")
