"""The archive: the CSV files of one sink, and the order of steps that writes each id once."""

import errno
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import tzinfo
from pathlib import Path

import relay
from relay.number_matcher import Traces
from relay.outcome import Outcome
from relay.path_text import as_utf8, named
from relay.sink import Log

from . import folder, neighbours
from .erasure import Cleared, clear, files_of, remove_unfinished
from .ledger import Append, Ledger
from .place import Place
from .rotation import Rotation, put_away
from .sheet import Sheet, pieces
from .table import Table
from .trouble import TROUBLE, outcome, shown

LEAST_SPACE = 16 * 1024 * 1024


class Archive:
    """Appends rows and returns when they are on disk. Everything in it blocks.

    An append is announced in the ledger, written, fsynced and then finished in the ledger. A
    process that ends in between leaves an announcement, and the next one to open the archive
    looks at what stands behind its offset.
    """

    def __init__(
        self,
        place: Place,
        table: Table,
        rotation: Rotation,
        zone: tzinfo,
        log: Log,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._place = place
        self._table = table
        self._rotation = rotation
        self._zone = zone
        self._log = log
        self._now = now
        self._ledger: Ledger | None = None
        neighbours.join(place)

    def open(self) -> None:
        """Take the ledger, and settle what the last process left. Raises Pause or Retry."""
        try:
            self._opened()
        except TROUBLE as error:
            raise outcome(error, self._place.ledger) from None

    def close(self) -> None:
        """Let go of the ledger and the files."""
        self._close_ledger()
        neighbours.leave(self._place)

    def write(self, deliveries: Sequence[relay.Delivery]) -> list[Outcome]:
        """Append the rows that are not there yet; one outcome for each delivery."""
        try:
            known = self._opened().known([delivery.id for delivery in deliveries])
        except TROUBLE as error:
            self._close_ledger()
            raise outcome(error, self._place.ledger) from None
        outcomes: dict[str, Outcome] = dict.fromkeys(known, relay.Delivered())
        for path, group in self._by_file(deliveries, outcomes).items():
            outcomes |= dict.fromkeys(group, self._append(path, group))
        return [outcomes[delivery.id] for delivery in deliveries]

    def erase(self, traces: Traces, ids: Collection[str]) -> relay.Erased:
        """Take a contact out of the files, and out of what the ledger remembers of them."""
        place = self._place
        if "${" in place.text:
            return relay.Erased(left=["its path is not filled in; ask the running relay"])
        if not place.folder.is_dir():
            return relay.Erased()
        cleared = Cleared()
        known = {event_id.encode() for event_id in ids}
        try:
            ledger = self._opened()
            remove_unfinished(place.folder)
            for path in files_of(place.folder, place.text):
                self._clear(path, traces, known, cleared)
            ledger.scrub()
        except TROUBLE as error:
            cleared.left.append(outcome(error, place.ledger).reason)
        return relay.Erased(cleared.records, cleared.mentions, cleared.left)

    def _clear(self, path: Path, traces: Traces, ids: Collection[bytes], cleared: Cleared) -> None:
        try:
            clear(path, traces, ids, cleared)
            name = os.fsencode(path.relative_to(self._place.folder))
            if traces.within(name):
                black = self._place.folder / os.fsdecode(traces.blacked(name))
                cleared.left.append(
                    f"{shown(black)}: the number is the file's name; remove or rename it"
                )
        except TROUBLE as error:
            cleared.left.append(outcome(error, path).reason)

    def problems(self) -> list[str]:
        """What would keep rows from being written. Changes nothing."""
        place = self._place.folder
        while not place.exists():
            place = place.parent
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            return [f"{place}: the relay cannot write here; make it a folder of the relay's user"]
        problems = []
        if (free := shutil.disk_usage(place).free) < LEAST_SPACE:
            problems.append(f"{place}: only {free // 1024} KiB left on the disk; make room")
        file = self._place.fixed
        if file and file.exists() and not (file.is_file() and os.access(file, os.R_OK | os.W_OK)):
            problems.append(
                f"{file}: the relay cannot write to it; make it a plain file of the relay's user"
            )
        return problems

    def _close_ledger(self) -> None:
        if self._ledger:
            self._ledger.close()
            self._ledger = None

    def _opened(self) -> Ledger:
        if self._ledger is None:
            folder.make(self._place.folder)
            ledger = Ledger(self._place.ledger)
            try:
                self._settle(ledger)
            except TROUBLE:
                ledger.close()
                raise
            self._ledger = ledger
        return self._ledger

    def _settle(self, ledger: Ledger) -> None:
        append = ledger.pending()
        if append is None:
            return
        kept: set[str] = set()
        name = Path(named(append.path))
        path = self._place.folder / name
        try:
            if not name.is_absolute() and ".." not in name.parts:  # it would be no file of ours
                with Sheet(path, create=False) as sheet:
                    kept = sheet.settle(append, cut=neighbours.take(self._place, path))
                    self._sync_names(sheet.path)
        except FileNotFoundError:
            pass
        ledger.take_back(append, kept)
        self._log.warning(
            "an append was under way when the relay ended: %d of its %d rows are in the file",
            len(kept),
            len(append.ids),
        )

    def _by_file(
        self, deliveries: Sequence[relay.Delivery], outcomes: dict[str, Outcome]
    ) -> dict[Path, dict[str, relay.Delivery]]:
        files: dict[Path, dict[str, relay.Delivery]] = {}
        for delivery in deliveries:
            if delivery.id in outcomes:
                continue
            try:
                path = self._place.path(delivery.event)
            except relay.Reject as reject:
                outcomes[delivery.id] = reject
            else:
                files.setdefault(path, {})[delivery.id] = delivery
        return files

    def _append(self, path: Path, group: dict[str, relay.Delivery]) -> Outcome:
        if not neighbours.take(self._place, path):
            return relay.Reject(
                f"{shown(path)}: another csv sink writes this file; give one another options.path"
            )
        rows = [(event_id, self._table.row(delivery)) for event_id, delivery in group.items()]
        try:
            ledger = self._opened()
            folder.make(path.parent)
            with self._sheet(ledger, path, sum(len(row) for _, row in rows)) as sheet:
                self._write(ledger, sheet, self._lead(sheet) + rows)
        except TROUBLE as error:
            return self._refused(error, path) or outcome(error, path)
        return relay.Delivered()

    def _refused(self, error: Exception, path: Path) -> relay.Reject | None:
        """What is wrong with the name that a callback gives its file, and stays so.

        Another event goes elsewhere, so it is no reason to pause the sink.
        """
        if self._place.fixed or not self._place.folder.is_dir():
            return None
        if isinstance(error, FileExistsError | NotADirectoryError | IsADirectoryError):
            return relay.Reject(f"{shown(path)}: a file and a folder would have the same name")
        if getattr(error, "errno", None) == errno.ENAMETOOLONG:
            return relay.Reject(f"{shown(path)}: the path is too long; shorten options.path")
        return None

    def _lead(self, sheet: Sheet) -> list[tuple[str, bytes]]:
        """What must stand between the file as it is and the first new row."""
        if not sheet.size:
            return [("", self._table.header)]
        if not sheet.context(sheet.size).endswith(b"\n"):
            return [("", b"\r\n")]
        return []

    def _write(self, ledger: Ledger, sheet: Sheet, rows: list[tuple[str, bytes]]) -> None:
        name = as_utf8(sheet.path.relative_to(self._place.folder))
        append = Append(name, sheet.size, sheet.context(sheet.size), pieces(rows))
        try:
            ledger.announce(append)
            sheet.write(b"".join(row for _, row in rows), append.offset)
            if not append.offset:
                self._sync_names(sheet.path)
            ledger.finish()
        except BaseException:
            self._take_back(ledger, sheet, append)
            raise

    def _take_back(self, ledger: Ledger, sheet: Sheet, append: Append) -> None:
        try:
            sheet.cut(append.offset)
            ledger.take_back(append)
        except TROUBLE:
            # Nobody knows what is on disk: the next opening looks.
            self._close_ledger()

    @contextmanager
    def _sheet(self, ledger: Ledger, path: Path, added: int) -> Iterator[Sheet]:
        """The file to append to; one that should take no more is put away first."""
        sheet = Sheet(path)
        try:
            if sheet.size and self._is_over(sheet, added):
                # An announcement must never be left to speak of the file under its old name.
                ledger.sync()
                label = self._rotation.label(sheet.changed, self._zone)
                target = put_away(path, label)
                folder.sync(path.parent)
                self._log.info("%s is now %s", shown(path), shown(target))
                sheet.close()
                sheet = Sheet(path)
            yield sheet
        finally:
            sheet.close()

    def _is_over(self, sheet: Sheet, added: int) -> bool:
        header = self._table.header_in(sheet.beginning(self._table.longest_header))
        if not header:
            return True
        return sheet.size > header and self._rotation.is_due(
            sheet.size, added, sheet.changed, self._now(), self._zone
        )

    def _sync_names(self, path: Path) -> None:
        """Have a new file's name on disk, and those of the folders that lead to it."""
        for parent in path.parents:
            folder.sync(parent)
            if parent == self._place.folder.parent:
                break
