"""Taking a contact out of CSV files: its rows go, the others stay byte for byte."""

import os

import pytest
from csvsink import erase_module as erase
from csvsink import rows_module, sink

import relay
from relay.redact import NumberMatcher

TRACES = NumberMatcher("+12125550142")
HEAD = b"id,time,mobile,message\r\n"
MINE = b"a1,t,+12125550142,hello\r\n"
BROKEN = b'a2,t,+12125550177,"two\r\nlines, ""quoted"""\r\n'
MENTION = b'a3,t,+12125550177,"call (212) 555-0142, please"\r\n'
NAMELESS = b"a4,t,,no number\r\n"


def cleared(path, ids=()):
    found = erase.Cleared()
    erase.clear(path, TRACES, ids, found)
    return found.records, found.mentions


@pytest.fixture
def file(tmp_path):
    return tmp_path / "events.csv"


def test_rows_of_the_contact_go_and_mentions_turn_black(file):
    file.write_bytes(HEAD + MINE + BROKEN + MENTION + MINE + NAMELESS)
    assert cleared(file) == (2, 1)
    black = MENTION.replace(b"(212) 555-0142", b"(xxx) xxx-xxxx")
    assert file.read_bytes() == HEAD + BROKEN + black + NAMELESS


def test_a_row_without_a_number_is_known_by_its_id(file):
    file.write_bytes(HEAD + NAMELESS + BROKEN)
    assert cleared(file, {b"a4"}) == (1, 0)
    assert file.read_bytes() == HEAD + BROKEN


@pytest.mark.parametrize(
    "cell", [b"2125550142", b"'(212) 555-0142", b'"212.555.0142"', b"0012125550142"]
)
def test_a_cell_that_is_the_number_makes_the_row_the_contacts(file, cell):
    file.write_bytes(HEAD + b"a1,t," + cell + b",hello\r\n")
    assert cleared(file) == (1, 0)
    assert file.read_bytes() == HEAD


def test_a_file_without_the_number_is_not_touched(file):
    file.write_bytes(HEAD + BROKEN)
    before = file.stat()
    assert cleared(file) == (0, 0)
    after = file.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert list(file.parent.iterdir()) == [file]


def test_a_file_keeps_its_mode_and_its_times(file):
    """By its time a file is put away, so it must not look newer."""
    file.write_bytes(HEAD + MINE)
    file.chmod(0o640)
    os.utime(file, (1_000_000_000, 1_000_000_000))
    cleared(file)
    assert file.stat().st_mode & 0o777 == 0o640
    assert file.stat().st_mtime == 1_000_000_000


def test_a_quote_that_nobody_closes_costs_no_other_row(file):
    file.write_bytes(HEAD + b'a5,t,x,"open\r\n' + BROKEN.replace(b'"', b"") + MINE)
    assert cleared(file) == (1, 0)
    assert file.read_bytes() == HEAD + b'a5,t,x,"open\r\n' + BROKEN.replace(b'"', b"")


@pytest.mark.parametrize(
    ("template", "name", "expected"),
    [
        ("out/events.csv", "events.csv", True),
        ("out/events.csv", "events.2026-11-23.0001.csv", True),
        ("out/events.csv", "events.2026-11.12345.csv", True),
        ("out/events.csv", "events.2026-11-23T10.0002.csv", True),
        ("out/events.csv", "other.csv", False),
        ("out/{{ data.keyword }}.csv", "JOIN.csv", True),
        ("out/{{ data.keyword }}.csv", "JOIN.2026-11-23.0001.csv", True),
        ("out/{{ data.keyword }}/{{ type }}.csv", "JOIN/poll.csv", True),
        ("out/all", "all", True),
        ("out/all", "all.2026-11-23.0001", True),
    ],
)
def test_the_files_of_a_template(tmp_path, template, name, expected):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(HEAD)
    assert (path in erase.files_of(tmp_path, template)) == expected


def test_what_is_no_file_of_ours_is_left_alone(tmp_path):
    """A template that begins with an expression fits the store as well."""
    (tmp_path / "relay.db").write_bytes(b"SQLite format 3\0")
    assert erase.files_of(tmp_path, "{{ data.keyword }}") == []


async def test_a_sink_that_never_wrote_makes_nothing(tmp_path):
    assert await sink(tmp_path).erase(TRACES, []) == relay.Erased()
    assert list(tmp_path.iterdir()) == []


async def test_a_path_that_is_not_filled_in_is_told_of(tmp_path):
    erased = await sink(tmp_path, path="${DATA}/events.csv").erase(TRACES, [])
    assert "not filled in" in erased.left[0]


@pytest.mark.parametrize("name", ["+12125550142", "(212) 555-0142", "２１２-５５５-٠١٤٢"])
async def test_a_name_that_is_the_number_is_told_of(tmp_path, name):
    path = tmp_path / f"out/{name}.csv"
    path.parent.mkdir()
    path.write_bytes(HEAD + MINE)
    erased = await sink(tmp_path, path="out/{{ data.mobile }}.csv").erase(TRACES, [])
    assert erased.records == 1
    assert "the file's name" in erased.left[0]
    assert not TRACES.within(erased.left[0].encode())
    assert "xxx" in erased.left[0]


@pytest.mark.parametrize(
    "cell", ["٢١٢٥٥٥٠١٤٢", "２１２ ５５５ ０１４２", "212JJJ0142", "\"'+1 212 '-555-0142\""]
)
def test_a_cell_that_the_relay_reads_as_the_number_makes_the_row_the_contacts(file, cell):
    file.write_bytes(HEAD + b"a1,t," + cell.encode() + b",hello\r\n" + BROKEN)
    assert cleared(file) == (1, 0)
    assert file.read_bytes() == HEAD + BROKEN


@pytest.mark.parametrize(
    "text", [b"call 212:555:0142", b"tel. 212'-555'-0142", rb'{""a"":""tel. \u0032125550142""}']
)
def test_a_mention_turns_black_in_whatever_it_is_written(file, text):
    file.write_bytes(HEAD + b'a3,t,+12125550177,"' + text + b'"\r\n' + BROKEN)
    assert cleared(file) == (0, 1)
    data = file.read_bytes()
    assert len(data) == len(HEAD + BROKEN + text) + len(b'a3,t,+12125550177,""\r\n')
    assert not TRACES.within(data)
    assert BROKEN in data


DEFAULT = ",".join([*rows_module.ATTRIBUTES, *rows_module.DATA]).encode() + b"\r\n"


def default_row(mobile, message):
    cells = [b"a1", b"t", b"", b"", b"", mobile, *[b""] * 4, message, *[b""] * 5]
    return b",".join(b'"%s"' % cell if cell else cell for cell in cells) + b"\r\n"


def test_in_the_default_columns_another_contact_may_text_the_number_alone(file):
    theirs = default_row(b"+12125550177", b"(212) 555-0142")
    file.write_bytes(DEFAULT + theirs + default_row(b"+12125550142", b"hi"))
    assert cleared(file) == (1, 1)
    assert file.read_bytes() == DEFAULT + theirs.replace(b"(212) 555-0142", b"(xxx) xxx-xxxx")


async def test_what_an_erasure_that_died_has_left_goes(tmp_path):
    left = tmp_path / "out/JOIN/.events.csv.erasing"
    left.parent.mkdir(parents=True)
    left.write_bytes(HEAD + MINE)
    erased = await sink(tmp_path).erase(TRACES, [])
    assert not erased.left
    assert not left.exists()
