"""Appends events to the CSV files of one sink, each id once and on disk.

`outcome_of` maps errors of the system to outcomes. `claim_file` keeps two csv sinks of one process
from writing to one file: after a crash, one would cut off rows that the other has written behind
its unfinished ones.
"""

import errno
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import tzinfo
from pathlib import Path
from weakref import WeakKeyDictionary

import apsw

import relay

from .erase import Cleared, clear, files_of, remove_unfinished
from .journal import Append, CsvFile, Journal, pieces, sync_folder
from .paths import FilePaths, Rotation, put_away
from .rows import RowFormat

TROUBLE = (OSError, apsw.Error)

NUMBER = re.compile(r"\d{5,}(?=\d{4})")
LONGEST = 400
"""Characters of a path in a message, from both of its ends."""


def outcome_of(error: BaseException, path: Path) -> relay.Retry | relay.Pause:
    """Retry what may pass, and pause for what an operator must change."""
    where = shown(Path(getattr(error, "filename", None) or path))
    match error:
        case apsw.BusyError():
            return relay.Pause(
                f"{where}: another process or sink writes these files; let only one do it"
            )
        case apsw.CorruptError() | apsw.NotADBError():
            return relay.Pause(f"{where}: is damaged; restore it from a backup, or move it away")
        case apsw.CantOpenError() | apsw.ReadOnlyError() | apsw.PermissionsError():
            return relay.Pause(f"{where}: cannot be written; give it to the relay's user")
        case apsw.FullError():
            return relay.Retry(f"{where}: no space left on the disk; make room")
        case OSError(errno=errno.EACCES | errno.EPERM | errno.EROFS):
            return relay.Pause(f"{where}: {error.strerror}; give it to the relay's user")
        case OSError(errno=errno.ENAMETOOLONG):
            return relay.Pause(f"{where}: the path is too long; shorten options.path")
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return relay.Retry(f"{where}: no space left on the disk; make room")
        case BlockingIOError():
            return relay.Retry(f"{where}: another program has locked the file; close it there")
        case OSError():
            return relay.Retry(f"{where}: {error.strerror or error}")
        case _:
            return relay.Retry(f"{where}: {error}")


def shown(path: Path) -> str:
    """The path, without the whole of a number that a template may have put into it."""
    text = str(path)
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]}…{text[-LONGEST // 2 :]}"
    return NUMBER.sub("…", text)


MOST_FILES = 50_000
"""Files of a sink that are remembered, the latest; senders may name any number. A few MiB."""
KEY = 16
"""Bytes for each of them, however long its name is."""

_lock = threading.Lock()
_taken: WeakKeyDictionary[FilePaths, dict[bytes, None]] = WeakKeyDictionary()
"""The files that each has written to, the latest last."""


def register_sink(place: FilePaths) -> None:
    """From here on the file that it always writes to is its own."""
    with _lock:
        _taken[place] = {}


def unregister_sink(place: FilePaths) -> None:
    """It writes no more."""
    with _lock:
        _taken.pop(place, None)


def claim_file(place: FilePaths, path: Path) -> bool:
    """Claim a file for this sink; False if another sink of this process has it."""
    file = path.resolve()
    key = hashlib.blake2b(os.fsencode(file), digest_size=KEY).digest()
    with _lock:
        for other, files in _taken.items():
            if other.journal == place.journal:
                continue  # that, the journal sees to
            if key in files or (not place.fixed and other.fixed and other.fixed.resolve() == file):
                return False
        _remember(_taken.setdefault(place, {}), key)
        return True


def _remember(files: dict[bytes, None], key: bytes) -> None:
    files.pop(key, None)
    files[key] = None
    if len(files) > MOST_FILES:
        del files[next(iter(files))]


LEAST_SPACE = 16 * 1024 * 1024


class CsvWriter:
    """Appends rows and returns when they are on disk. Everything in it blocks.

    An append is announced in the journal, written, fsynced and then finished in the journal. A
    process that ends in between leaves an announcement, and the next one to open the archive
    looks at what is behind its offset.
    """

    def __init__(
        self,
        place: FilePaths,
        table: RowFormat,
        rotation: Rotation,
        zone: tzinfo,
        log: relay.Log,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._place = place
        self._table = table
        self._rotation = rotation
        self._zone = zone
        self._log = log
        self._now = now
        self._journal: Journal | None = None
        register_sink(place)

    def open(self) -> None:
        """Take the journal, and settle what the last process left. Raises Pause or Retry."""
        try:
            self._opened()
        except TROUBLE as error:
            raise outcome_of(error, self._place.journal) from None

    def close(self) -> None:
        """Let go of the journal and the files."""
        self._close_journal()
        unregister_sink(self._place)

    def write(self, deliveries: Sequence[relay.Delivery]) -> list[relay.Outcome]:
        """Append the rows that are not there yet; one outcome for each delivery."""
        try:
            known = self._opened().known([delivery.id for delivery in deliveries])
        except TROUBLE as error:
            self._close_journal()
            raise outcome_of(error, self._place.journal) from None
        outcomes: dict[str, relay.Outcome] = dict.fromkeys(known, relay.Delivered())
        for path, group in self._by_file(deliveries, outcomes).items():
            outcomes |= dict.fromkeys(group, self._append(path, group))
        return [outcomes[delivery.id] for delivery in deliveries]

    def erase(self, matcher: relay.NumberMatcher, ids: Collection[str]) -> relay.Erased:
        """Take a contact out of the files, and out of what the journal remembers of them."""
        place = self._place
        if "${" in place.text:
            return relay.Erased(left=["its path is not filled in; ask the running relay"])
        if not place.folder.is_dir():
            return relay.Erased()
        cleared = Cleared()
        known = {event_id.encode() for event_id in ids}
        try:
            journal = self._opened()
            remove_unfinished(place.folder)
            for path in files_of(place.folder, place.text):
                self._clear(path, matcher, known, cleared)
            journal.scrub()
        except TROUBLE as error:
            cleared.left.append(outcome_of(error, place.journal).reason)
        return relay.Erased(cleared.records, cleared.mentions, cleared.left)

    def _clear(
        self, path: Path, matcher: relay.NumberMatcher, ids: Collection[bytes], cleared: Cleared
    ) -> None:
        try:
            clear(path, matcher, ids, cleared)
            name = os.fsencode(path.relative_to(self._place.folder))
            if matcher.within(name):
                black = self._place.folder / os.fsdecode(matcher.blacked(name))
                cleared.left.append(
                    f"{shown(black)}: the number is the file's name; remove or rename it"
                )
        except TROUBLE as error:
            cleared.left.append(outcome_of(error, path).reason)

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

    def _close_journal(self) -> None:
        if self._journal:
            self._journal.close()
            self._journal = None

    def _opened(self) -> Journal:
        if self._journal is None:
            relay.make_folder(self._place.folder)
            journal = Journal(self._place.journal)
            try:
                self._settle(journal)
            except TROUBLE:
                journal.close()
                raise
            self._journal = journal
        return self._journal

    def _settle(self, journal: Journal) -> None:
        append = journal.pending()
        if append is None:
            return
        kept: set[str] = set()
        name = Path(relay.path_from_utf8(append.path))
        path = self._place.folder / name
        try:
            if not name.is_absolute() and ".." not in name.parts:  # it would be no file of ours
                with CsvFile(path, create=False) as file:
                    kept = file.settle(append, cut=claim_file(self._place, path))
                    self._sync_names(file.path)
        except FileNotFoundError:
            pass
        journal.take_back(append, kept)
        self._log.warning(
            "an append was under way when the relay ended: %d of its %d rows are in the file",
            len(kept),
            len(append.ids),
        )

    def _by_file(
        self, deliveries: Sequence[relay.Delivery], outcomes: dict[str, relay.Outcome]
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

    def _append(self, path: Path, group: dict[str, relay.Delivery]) -> relay.Outcome:
        if not claim_file(self._place, path):
            return relay.Reject(
                f"{shown(path)}: another csv sink writes this file; give one another options.path"
            )
        rows = [(event_id, self._table.row(delivery)) for event_id, delivery in group.items()]
        try:
            journal = self._opened()
            relay.make_folder(path.parent)
            with self._file(journal, path, sum(len(row) for _, row in rows)) as file:
                self._write(journal, file, self._lead(file) + rows)
        except TROUBLE as error:
            return self._refused(error, path) or outcome_of(error, path)
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

    def _lead(self, file: CsvFile) -> list[tuple[str, bytes]]:
        """The bytes between the end of the file and the first new row."""
        if not file.size:
            return [("", self._table.header)]
        if not file.context(file.size).endswith(b"\n"):
            return [("", b"\r\n")]
        return []

    def _write(self, journal: Journal, file: CsvFile, rows: list[tuple[str, bytes]]) -> None:
        name = relay.path_as_utf8(file.path.relative_to(self._place.folder))
        append = Append(name, file.size, file.context(file.size), pieces(rows))
        try:
            journal.announce(append)
            file.write(b"".join(row for _, row in rows), append.offset)
            if not append.offset:
                self._sync_names(file.path)
            journal.finish()
        except BaseException:
            self._take_back(journal, file, append)
            raise

    def _take_back(self, journal: Journal, file: CsvFile, append: Append) -> None:
        try:
            file.cut(append.offset)
            journal.take_back(append)
        except TROUBLE:
            # What is on disk is unknown: the next opening looks.
            self._close_journal()

    @contextmanager
    def _file(self, journal: Journal, path: Path, added: int) -> Iterator[CsvFile]:
        """The file to append to; one that should take no more is put away first."""
        file = CsvFile(path)
        try:
            if file.size and self._is_over(file, added):
                # An announcement must never be left to speak of the file under its old name.
                journal.sync()
                label = self._rotation.label(file.changed, self._zone)
                target = put_away(path, label)
                sync_folder(path.parent)
                self._log.info("%s is now %s", shown(path), shown(target))
                file.close()
                file = CsvFile(path)
            yield file
        finally:
            file.close()

    def _is_over(self, file: CsvFile, added: int) -> bool:
        header = self._table.header_in(file.beginning(self._table.longest_header))
        if not header:
            return True
        return file.size > header and self._rotation.is_due(
            file.size, added, file.changed, self._now(), self._zone
        )

    def _sync_names(self, path: Path) -> None:
        """Have a new file's name on disk, and those of the folders that lead to it."""
        for parent in path.parents:
            sync_folder(parent)
            if parent == self._place.folder.parent:
                break
