"""The spill's file: what is in it is what was acknowledged, whatever the disk and the power do."""

import asyncio
import errno
import itertools
import logging
import os

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spills import callback, nonsense

from relay.event import RawCallback
from relay.spill.file import SpillFile, count
from relay.spill.queue import SpillQueue
from relay.spill.records import Spilled, decode, encode
from relay.store import StoreLocked


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "relay.spill"


def spilled(number: int) -> Spilled:
    return Spilled(f"id-{number}", callback(number))


def written(path, numbers, *, clean=True):
    """A file with these, as a process leaves it."""
    file = SpillFile(path)
    file.open()
    file.append([encode(spilled(each)) for each in numbers])
    file.close()
    return file


def read(path):
    """The numbers of what a process finds that starts now, and the lines that are bad."""
    file = SpillFile(path)
    torn = file.open()
    chunk = file.read(0, 1000)
    file.close()
    assert chunk.end == path.stat().st_size
    return [int(each.id.removeprefix("id-")) for each in chunk.records], chunk.bad, torn


bytes_ = st.binary(max_size=60)
texts = st.text(max_size=20)
callbacks = st.builds(
    RawCallback,
    source=texts,
    method=st.sampled_from(["GET", "POST"]),
    query=bytes_,
    content_type=bytes_.map(lambda each: each.decode("latin-1")),
    body=bytes_,
    received=st.integers(0, 2**62),
    test=st.booleans(),
    encoding=texts,
    sender=texts,
    token_digest=st.none() | st.binary(min_size=1, max_size=60),
)


@given(
    st.builds(
        Spilled,
        id=texts,
        callback=callbacks,
        status=st.none() | st.just(422),
        reason=st.just(""),
    )
)
def test_any_callback_comes_back_as_it_was(record):
    line = encode(record)
    assert line.index(b"\n") == len(line) - 1
    assert decode(line) == record


@given(st.data())
def test_no_changed_byte_goes_unnoticed(data):
    line = encode(spilled(1))
    at = data.draw(st.integers(0, len(line) - 2))
    other = data.draw(st.integers(0, 255).filter(lambda each: each != line[at]))
    changed = line[:at] + bytes([other]) + line[at + 1 :]
    # The checksum's digits may be written large.
    assert decode(changed) is None or changed[:8].lower() == line[:8]


@pytest.mark.parametrize("line", [b"", b"\n", b"\0" * 40, b"x", b"00000000 \n", b"0 {}\n"])
def test_what_is_no_record_is_none(line):
    assert decode(line) is None


def test_what_a_later_release_wrote_more_is_left_out():
    import zlib

    record = orjson.loads(encode(spilled(1)).partition(b" ")[2])
    record["callback"]["later"] = record["later"] = 1
    text = orjson.dumps(record)
    assert decode(b"%08x %s\n" % (zlib.crc32(text), text)) == spilled(1)


def test_a_line_of_an_earlier_release_is_read():
    """As schema 2 wrote it: without the encoding, the sender and the token."""
    line = (
        b'9f60ce53 {"id":"id-1","callback":{"source":"sumotext","method":"POST","query":"a=1",'
        b'"content_type":"text/plain","body":"\xc3\xbf","received":7,"test":true,"traceparent":null}}\n'
    )
    found = RawCallback("sumotext", "POST", b"a=1", "text/plain", b"\xff", 7, test=True)
    assert decode(line) == Spilled("id-1", found)
    assert encode(Spilled("id-1", found)) == line


def test_a_record_of_another_shape_is_none():
    """As a newer release may write it: it is put aside, not guessed at."""
    import zlib

    for record in (b"[]", b"{}", b'{"id":"a","callback":{"query":""}}', b'{"callback":3}'):
        assert decode(b"%08x %s\n" % (zlib.crc32(record), record)) is None


def test_what_is_appended_is_read_in_order(path):
    written(path, [1, 2])
    written(path, [3])
    assert read(path) == ([1, 2, 3], [], 0)
    assert count(path) == 3
    assert path.stat().st_mode & 0o777 == 0o640


def test_it_is_read_in_pieces(path):
    written(path, range(5))
    file = SpillFile(path)
    file.open()
    start, found = 0, []
    while (chunk := file.read(start, 2)).lines:
        found.append([each.id for each in chunk.records])
        start = chunk.end
    assert found == [["id-0", "id-1"], ["id-2", "id-3"], ["id-4"]]
    file.close()


def test_a_torn_tail_is_cut_off_wherever_it_is_torn(path):
    written(path, [1, 2])
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(first, len(whole) - 1):  # with its last byte alone missing, it is kept
        path.write_bytes(whole[:end])
        assert read(path) == ([1], [], end - first)
        written(path, [3])
        assert read(path) == ([1, 3], [], 0)


def test_a_bad_record_in_the_middle_is_kept_aside_once(path):
    written(path, [1, 2, 3])
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"JOIN", b"QUIT")
    path.write_bytes(b"".join(lines))
    assert read(path) == ([1, 3], [lines[1]], 0)
    file = SpillFile(path)
    for _ in range(2):
        file.put_aside([lines[1]])
    assert file.rejected.read_bytes() == lines[1]


def test_a_second_process_is_refused(path):
    written(path, [1])
    file, other = SpillFile(path), SpillFile(path)
    file.open()
    with pytest.raises(StoreLocked, match="in use"):
        other.open()
    file.close()
    other.open()
    other.close()


def put_another(path):
    """As another relay would, that began without one."""
    path.unlink()
    written(path, [8, 9])


@pytest.mark.parametrize(
    ("harm", "expected"),
    [(lambda path: path.unlink(), [1, 2, 3]), (put_another, [1, 2, 8, 9, 3])],
)
def test_a_file_that_lost_its_name_is_made_anew_before_the_answer(path, harm, expected):
    file = SpillFile(path)
    file.append([encode(spilled(1)), encode(spilled(2))])
    harm(path)
    file.append([encode(spilled(3))])
    assert file.lines == len(expected)
    file.close()
    assert read(path) == (expected, [], 0)


def test_without_that_it_is_acknowledged_and_lost(path, monkeypatch):
    """The control."""
    monkeypatch.setattr(SpillFile, "_in_place", lambda _: True)
    file = SpillFile(path)
    file.append([encode(spilled(1))])
    path.unlink()
    file.append([encode(spilled(2))])
    file.close()
    assert not path.exists()


def test_one_that_is_deleted_while_it_is_written_is_written_again(path, monkeypatch):
    sync = os.fdatasync

    def delete_once(descriptor):
        sync(descriptor)
        monkeypatch.undo()
        path.unlink()

    file = SpillFile(path)
    file.append([encode(spilled(1))])
    monkeypatch.setattr("relay.spill.file.os.fdatasync", delete_once)
    file.append([encode(spilled(2))])
    file.close()
    assert read(path) == ([1, 2], [], 0)


def test_one_that_lost_its_name_is_read_on_where_one_was(path):
    file = SpillFile(path)
    file.append([encode(spilled(each)) for each in (1, 2)])
    end = file.read(0, 1).end
    path.unlink()
    assert [each.id for each in file.read(end, 9).records] == ["id-2"]
    file.close()


async def test_one_that_lost_its_name_is_there_after_the_end(path):
    spill = await SpillQueue.open(path)
    await spill.append(spilled(1))
    path.unlink()
    await spill.close()
    assert read(path) == ([1], [], 0)


def test_to_try_a_write_leaves_nothing(path, monkeypatch):
    def fails(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    file = SpillFile(path)
    file.append([encode(spilled(1))])
    file.try_write()
    file.append([encode(spilled(2))])
    with monkeypatch.context() as patch:
        patch.setattr("relay.spill.file.os.pwrite", fails)
        with pytest.raises(OSError, match="No space"):
            file.try_write()
    file.close()
    assert read(path) == ([1, 2], [], 0)


def test_a_file_that_has_grown_is_not_removed(path):
    file = written(path, [1])
    file.open()
    end = file.size
    file.append([encode(spilled(2))])
    assert not file.remove(end)
    assert file.remove(file.size)
    assert not path.exists()
    file.append([encode(spilled(3))])
    file.close()
    assert read(path) == ([3], [], 0)


# a disk that fails


def failing(monkeypatch, name, *, code=errno.EIO, at=1, short=0):
    """Have the `at`th call of os.`name` fail; a write may put down its beginning."""
    real, calls = getattr(os, name), itertools.count(1)

    def call(descriptor, *arguments):
        if next(calls) != at:
            return real(descriptor, *arguments)
        if short:
            data, offset = arguments
            real(descriptor, data[:short], offset)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize("short", [0, 5])
@pytest.mark.parametrize("name", ["pwrite", "fdatasync"])
def test_what_could_not_be_written_is_not_there(path, monkeypatch, name, short):
    file = written(path, [1])
    file.open()
    failing(monkeypatch, name, short=short if name == "pwrite" else 0)
    with pytest.raises(OSError, match="Input/output"):
        file.append([encode(spilled(2))])
    assert (file.lines, file.read(0, 9).lines) == (1, 1)
    file.append([encode(spilled(3))])
    file.close()
    assert read(path) == ([1, 3], [], 0)


def test_leftovers_that_cannot_be_cut_off_keep_the_file_shut(path, monkeypatch):
    """Else they would stand behind what is appended next."""
    file = written(path, [1])
    file.open()
    with monkeypatch.context() as patch:
        failing(patch, "pwrite", code=errno.ENOSPC, short=500)
        patch.setattr(os, "ftruncate", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "no")))
        for _ in range(2):
            with pytest.raises(OSError):  # noqa: PT011
                file.append([encode(spilled(2))])
    file.append([encode(spilled(3))])
    file.close()
    assert read(path) == ([1, 3], [], 0)


def test_a_write_that_stops_short_goes_on(path, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:7], at))
    written(path, [1, 2])
    assert read(path) == ([1, 2], [], 0)


def test_its_name_is_on_disk_before_the_first_answer(path, monkeypatch):
    synced = []
    monkeypatch.setattr("relay.fsutil.sync", synced.append)
    written(path, [1])
    assert synced[-1] == path.parent
    monkeypatch.setattr("relay.fsutil.sync", lambda _: (_ for _ in ()).throw(OSError("no")))
    path.unlink()
    with pytest.raises(OSError, match="no"):
        written(path, [2])


# erasing


def of(*contacts):
    numbers = [str(2125550000 + contact).encode() for contact in contacts]
    return lambda found: (
        None if any(each in found.query + found.body for each in numbers) else found
    )


def test_erasing_takes_out_what_matches_and_no_byte_of_it_stays(path):
    file = written(path, range(10))
    file.put_aside([b"rubbish 2125550003\n", b"rubbish 2125550004\n"])
    file.open()
    assert file.erase(of(3, 7)) == 3
    file.append([encode(spilled(10))])
    file.close()
    assert read(path)[0] == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    for left in path.parent.iterdir():
        assert b"2125550003" not in left.read_bytes()
        assert b"2125550007" not in left.read_bytes()
    assert b"2125550004" in file.rejected.read_bytes()


def test_erasing_without_a_file_erases_nothing(path):
    file = SpillFile(path)
    file.open()
    assert file.erase(of(1)) == 0


# many at once


async def test_what_comes_together_is_synced_together(path, monkeypatch):
    syncs = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (syncs.append(fd), real(fd)))
    spill = await SpillQueue.open(path)
    await asyncio.gather(*(spill.append(spilled(number)) for number in range(200)))
    assert len(syncs) <= 4
    assert spill.records == 200
    await spill.close()
    assert read(path)[0] == list(range(200))


async def test_each_of_a_group_hears_that_it_failed(path, monkeypatch):
    spill = await SpillQueue.open(path)
    failing(monkeypatch, "fdatasync")
    results = await asyncio.gather(
        *(spill.append(spilled(number)) for number in range(3)), return_exceptions=True
    )
    assert all(isinstance(each, OSError) for each in results)
    await spill.append(spilled(3))
    await spill.close()
    assert read(path)[0] == [3]


async def test_it_is_read_while_it_grows_and_removed_when_all_is_read(path):
    spill = await SpillQueue.open(path)
    for number in range(3):
        await spill.append(spilled(number))
    chunk = await spill.read(2)
    spill.advance(chunk)
    assert spill.records == 1
    await spill.remove()
    assert path.exists()
    spill.advance(await spill.read(2))
    assert not spill.unread
    await spill.remove()
    assert not path.exists()
    await spill.append(spilled(9))
    assert [each.id for each in (await spill.read(2)).records] == ["id-9"]
    await spill.close()


async def test_after_erasing_it_is_read_from_its_start(path):
    spill = await SpillQueue.open(path)
    for number in range(4):
        await spill.append(spilled(number))
    spill.advance(await spill.read(2))
    assert await spill.erase(of(0, 3)) == 2
    assert [each.id for each in (await spill.read(9)).records] == ["id-1", "id-2"]
    await spill.close()


async def test_a_torn_tail_is_told_of(path, caplog):
    written(path, [1])
    with path.open("ab") as file:
        file.write(b"torn")
    spill = await SpillQueue.open(path)
    assert spill.records == 1
    await spill.close()
    assert "4 bytes that were never acknowledged are cut off" in caplog.text


async def test_one_that_cannot_be_opened_is_told_of_and_tried_again(path, caplog):
    written(path, [1])
    aside = path.with_name("aside")
    path.rename(aside)
    path.mkdir()
    spill = await SpillQueue.open(path)
    with pytest.raises(OSError, match="directory"):
        await spill.append(spilled(2))
    path.rmdir()
    aside.rename(path)
    await spill.append(spilled(2))
    assert spill.records == 2
    await spill.close()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_a_kept_callback_of_any_bytes_is_the_same(path):
    spill = await SpillQueue.open(path)
    record = Spilled("id", nonsense(), 422, "mobile is missing")
    await spill.append(record)
    assert (await spill.read(1)).records == [record]
    await spill.close()
