"""A spill that is damaged, or that the disk cannot read: all that can be read is taken in."""

import errno
import itertools
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spills import callback

from relay.spill import records
from relay.spill.file import TRIES, SpillFile, count
from relay.spill.records import PAGE, Spilled, encode


@pytest.fixture
def path(tmp_path):
    return tmp_path / "relay.spill"


def spilled(number: int) -> Spilled:
    return Spilled(f"id-{number}", callback(number))


def written(path, numbers):
    """A file with these."""
    file = SpillFile(path)
    file.open()
    file.append([encode(spilled(each)) for each in numbers])
    file.close()


def numbers(chunk) -> list[int]:
    return [int(each.id.removeprefix("id-")) for each in chunk.records]


def read(path):
    """The numbers of the records, and the bytes that are no record's."""
    file = SpillFile(path)
    file.open()
    chunk = file.read(0, 1000)
    file.close()
    return numbers(chunk), chunk.bad


class BadPages:
    """A disk that cannot read some pages; for ever, or so many times."""

    def __init__(self, monkeypatch, *pages: int, times: float = float("inf")) -> None:
        self._pages = pages
        self._read = os.pread
        self.left = times
        self.failed = 0
        monkeypatch.setattr(os, "pread", self)

    def __call__(self, descriptor, size, at):
        touched = range(at // PAGE, (at + max(size, 1) - 1) // PAGE + 1)
        if self.left > 0 and any(page in touched for page in self._pages):
            self.left -= 1
            self.failed += 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self._read(descriptor, size, at)


# the end of a line


@pytest.mark.parametrize("last", [b"", b"x", b"\0", b"}"])
def test_a_last_line_whose_last_byte_alone_is_damaged_is_kept(path, last, caplog):
    written(path, [1, 2])
    path.write_bytes(path.read_bytes()[:-1] + last)
    assert read(path)[0] == [1, 2]
    assert "is kept" in caplog.text
    written(path, [3])
    assert read(path)[0] == [1, 2, 3]
    assert count(path) == 3


def test_a_last_line_that_is_damaged_within_is_cut_off(path):
    written(path, [1, 2])
    path.write_bytes(path.read_bytes()[:-3] + b"xx")
    assert read(path) == ([1], [])


def test_what_stands_before_a_torn_line_and_lost_its_end_is_kept(path):
    written(path, [1, 2, 3])
    first, second, third = path.read_bytes().splitlines()
    path.write_bytes(first + b"\n" + second + b"?" + third[:40])
    assert read(path) == ([1, 2], [third[:40] + b"\n"])


@pytest.mark.parametrize("between", [b"", b"x", b"\0" * 700, b"rubbish"])
def test_two_lines_that_lost_what_is_between_them_are_both_taken(path, between):
    written(path, [1, 2, 3])
    first, second, third = path.read_bytes().splitlines()
    path.write_bytes(first + between + second + b"\n" + third + b"\n")
    found, bad = read(path)
    assert found == ([1, 2, 3] if between != b"rubbish" else [2, 3])
    assert bool(bad) == (between == b"rubbish")


def test_a_callback_that_quotes_a_record_is_one_callback(path):
    quoted = encode(spilled(1)).decode().strip()
    file = SpillFile(path)
    file.append([encode(Spilled("id-2", callback(2, quoted)))])
    file.close()
    path.write_bytes(path.read_bytes()[:-1])
    assert read(path) == ([2], [])


def test_erasing_tells_two_merged_lines_apart(path):
    written(path, [1, 2])
    path.write_bytes(path.read_bytes().replace(b"\n", b"x", 1))
    file = SpillFile(path)
    file.open()
    assert file.erase(lambda found: None if b"2125550001" in found.query else found) == 1
    file.close()
    assert read(path) == ([2], [])


@given(st.data())
def test_a_changed_byte_costs_one_record_at_most(data):
    expected = list(range(5))
    content = b"".join(encode(spilled(each)) for each in expected)
    at = data.draw(st.integers(0, len(content) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda each: each != content[at]))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "relay.spill"
        path.write_bytes(content[:at] + bytes([byte]) + content[at + 1 :])
        found, bad = read(path)
    lost = sorted(set(expected) - set(found))
    assert found == [each for each in expected if each not in lost]
    assert len(lost) <= (content[at : at + 1] != b"\n")
    assert bool(bad) == bool(lost) or lost == [4]  # the last one may be cut off as torn


# pages that cannot be read


def many(path) -> list[int]:
    """A file of several blocks; its numbers."""
    found = list(range(1500))
    written(path, found)
    assert path.stat().st_size > 3 * records.BLOCK
    return found


def test_a_page_that_cannot_be_read_once_costs_nothing(path, monkeypatch):
    expected = many(path)
    file = SpillFile(path)
    file.open()
    disk = BadPages(monkeypatch, 20, times=1)
    with pytest.raises(OSError, match="Input/output"):
        file.read(0, 9999)
    assert numbers(file.read(0, 9999)) == expected
    assert disk.failed == 1
    assert file.remove(file.size)
    assert not any(path.parent.iterdir())


def test_behind_a_page_that_cannot_be_read_it_goes_on_and_the_file_is_kept(path, monkeypatch):
    expected = many(path)
    content = path.read_bytes()
    file = SpillFile(path)
    file.open()
    BadPages(monkeypatch, 3, 20)
    for _ in range(TRIES):
        with pytest.raises(OSError, match="Input/output"):
            file.read(0, 9999)
    chunk = file.read(0, 9999)
    monkeypatch.undo()
    lost = set(expected) - set(numbers(chunk))
    assert lost
    assert len(lost) < 2 * (PAGE / len(encode(spilled(1))) + 2)
    assert numbers(chunk) == sorted(set(expected) - lost)
    assert chunk.bad
    assert chunk.end == len(content)
    assert file.remove(file.size)
    assert not path.exists()
    assert path.with_name(f"{path.name}.damaged").read_bytes() == content


def test_a_second_damaged_file_takes_no_other_s_place(path, monkeypatch):
    for _ in range(2):
        written(path, range(100))
        file = SpillFile(path)
        file.open()
        with monkeypatch.context() as patch:
            BadPages(patch, 0)
            for _ in range(TRIES):
                with pytest.raises(OSError, match="Input/output"):
                    file.read(0, 999)
            file.read(0, 999)
        assert file.remove(file.size)
    assert sorted(each.name for each in path.parent.iterdir()) == [
        "relay.spill.damaged",
        "relay.spill.damaged-2",
    ]


def test_one_that_cannot_be_measured_at_first_is_opened_and_not_cut(path, monkeypatch):
    written(path, range(100))
    content = path.read_bytes()
    pages = range(len(content) // PAGE + 1)
    file = SpillFile(path)
    BadPages(monkeypatch, *pages)
    for _ in range(TRIES):
        with pytest.raises(OSError, match="Input/output"):
            file.open()
        assert file.unopened
    file.open()
    assert not file.unopened
    monkeypatch.undo()
    assert path.read_bytes().startswith(content)
    assert numbers(file.read(0, 999)) == list(range(100))
    file.close()


def test_one_that_cannot_be_read_is_appended_to_at_once(path, monkeypatch):
    """Callbacks are not refused because of those before them."""
    written(path, range(100))
    with monkeypatch.context() as patch:
        BadPages(patch, 1)
        file = SpillFile(path)
        file.append([encode(spilled(100))])
    assert numbers(file.read(0, 999)) == list(range(101))
    file.close()


def test_other_errors_are_not_passed_over(path, monkeypatch):
    written(path, [1])
    file = SpillFile(path)
    file.open()

    def fails(*_):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(os, "pread", fails)
    for _ in range(TRIES + 1):
        with pytest.raises(OSError, match="Bad file"):
            file.read(0, 9)


# a file that others change


def test_one_that_another_program_cut_short_is_read_to_its_end(path, caplog):
    written(path, [1, 2, 3])
    file = SpillFile(path)
    file.open()
    os.truncate(path, path.stat().st_size // 2)
    assert numbers(file.read(0, 9)) == [1]
    file.append([encode(spilled(4))])
    assert numbers(file.read(0, 9)) == [1, 4]
    file.close()
    assert "was cut short" in caplog.text


def test_one_that_cannot_be_opened_after_it_was_made_again_is_not_forgotten(path, monkeypatch):
    file = SpillFile(path)
    file.append([encode(spilled(1))])
    path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr("relay.spill.file.fcntl.flock", no_locks)
        with pytest.raises(OSError, match="No locks"):
            file.append([encode(spilled(2))])
    assert file.unopened
    file.open()
    assert numbers(file.read(0, 9)) == [1]
    file.close()


def test_one_whose_place_is_taken_is_told_of_once(path, caplog):
    file = SpillFile(path)
    file.append([encode(spilled(1))])
    path.unlink()
    path.mkdir()
    for _ in range(3):
        with pytest.raises(OSError, match="no plain file"):
            file.append([encode(spilled(2))])
    path.rmdir()
    file.append([encode(spilled(3))])
    assert numbers(file.read(0, 9)) == [1, 3]
    file.close()
    assert caplog.text.count("was deleted or replaced") == 1


def no_locks(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_one_that_comes_by_itself_is_noticed(path):
    file = SpillFile(path)
    file.open()
    file.detect()
    assert not file.unopened
    written(path, [1])
    file.detect()
    assert file.unopened
    file.open()
    assert file.lines == 1
    file.close()


@pytest.mark.parametrize("harm", ["mkdir", "symlink"])
def test_what_cannot_be_opened_counts_as_there(path, harm):
    if harm == "mkdir":
        path.mkdir()
    else:
        path.symlink_to(path)
    file = SpillFile(path)
    with pytest.raises(OSError):  # noqa: PT011
        file.open()
    assert file.unopened


# the end of an import


def failing(monkeypatch, name):
    def fails(*_, **__):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, name, fails)


def test_one_whose_name_cannot_be_removed_holds_nothing(path, monkeypatch):
    """Else what is purged or erased meanwhile would come again with the next start."""
    written(path, [1, 2])
    file = SpillFile(path)
    file.open()
    with monkeypatch.context() as patch:
        failing(patch, "unlink")
        assert file.remove(file.size)
    assert path.read_bytes() == b""
    file.append([encode(spilled(3))])
    file.close()
    assert read(path) == ([3], [])


def test_lines_longer_than_any_are_bad_and_bounded(path, monkeypatch):
    monkeypatch.setattr(records, "LONGEST", 2 * records.BLOCK)
    path.write_bytes(bytes(9 * records.BLOCK) + b"\n" + encode(spilled(1)))
    found, bad = read(path)
    assert found == [1]
    assert max(map(len, bad)) <= 3 * records.BLOCK + 1


def test_blocks_are_the_file(path):
    content = os.urandom(3 * records.BLOCK + 17)
    path.write_bytes(content)
    with path.open("rb") as file:
        for start, end in itertools.product((0, 1, PAGE, 70_000), (len(content), 150_000)):
            found = records.read_blocks(file.fileno(), start, end, skip=False)
            assert b"".join(each.content for each in found) == content[start:end]
            read_ = records.read_lines(file.fileno(), start, end, skip=False)
            assert b"".join(each.content for each in read_) == content[start:end]
