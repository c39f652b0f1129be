"""The csv sink's files in a spreadsheet: at whatever separators it splits them, no cell is run."""

import json
import re

import pytest
from csvsink import delivery, event_id, rows_module, sink, strict_rows
from hypothesis import given
from hypothesis import strategies as st

SEPARATORS = ",;|\t :"
LINE_BREAKS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
SIGNS = "=+-@＝＋－＠﹢﹣﹦﹫−"
UNSEEN = "\u00a0\u200b\u2060\ufeff\x01"

# A model of spreadsheets, which shares nothing with the code under test.


def live(cell, separator):
    """Whether a cell may be run. A plain phone number is none that is.

    Where a space ends it, neither is a sign alone nor a number; behind a colon, no smiley is.
    """
    shown = cell.lstrip(f" {UNSEEN}{LINE_BREAKS}\t")
    if not shown.startswith(tuple(SIGNS)) or re.match(r'\+[1-9][0-9]{6,14}("|\Z)', shown):
        return False
    operand = shown.lstrip(SIGNS)
    if separator in " :" and operand.startswith(")"):
        return False
    if separator == " ":
        return operand != "" and not re.match(r'[+-][0-9][0-9.,]*([;?)"]|\Z)', shown)
    return True


def split_plainly(text, separator):
    """As a reader without quotes does, and one that gives up a row at each line break."""
    for line in re.split(f"[{LINE_BREAKS}]", text):
        yield from line.split(separator)


def split_with_quotes(text, separator):
    """As Excel does: what follows a closing quote belongs to the cell."""
    cell, at, quoted, start = "", 0, False, True
    while at < len(text):
        char = text[at]
        if quoted and text.startswith('""', at):
            cell, at = cell + '"', at + 1
        elif char == '"' and (quoted or start):
            quoted = not quoted
        elif not quoted and (char == separator or char in "\r\n"):
            yield cell
            cell, start, at = "", True, at + 1
            continue
        else:
            cell += char
        start, at = False, at + 1
    yield cell


def live_cells(data):
    """The formulas in a file, with the separators at which they are found."""
    text = data.decode()
    return [
        (separator, cell)
        for separator in SEPARATORS
        for cells in (split_plainly, split_with_quotes)
        for cell in cells(text, separator)
        if live(cell, separator)
    ]


def table(*, defused=True, columns=("a", "b")):
    return rows_module.RowFormat(columns, defused=defused)


def written(*values, defused=True):
    """A file with one row."""
    columns = tuple("abcdef"[: len(values)])
    record = dict(zip(columns, values, strict=True))
    under_test = table(defused=defused, columns=columns)
    return under_test.header + under_test.row(delivery(1, record))


# what is defused


@pytest.mark.parametrize("separator", SEPARATORS + LINE_BREAKS)
def test_a_formula_behind_a_separator_is_defused(separator):
    for formula in ("=1+41", "+1+41", "-1+43", "@SUM(41)", "＝1+41", "−1+2"):
        for between in ("", " ", "\u200b", '"'):
            text = f"x{separator}{between}{formula}{separator}y"
            if between != '"' or separator in ";|\t :":
                assert live_cells(written(text, defused=False)) != []
            assert live_cells(written(text)) == []
            cell = strict_rows(written(text))[1][1]
            assert cell == f"x{separator}{between}'{formula}{separator}y"


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("x;=1+41;y", "x;'=1+41;y"),
        ("x\t=1+41\ty", "x\t'=1+41\ty"),
        ("x\r\n=1+41", "x\r\n'=1+41"),
        ("\t=1", "'\t'=1"),
        (";=1", ";'=1"),
        ("x;;=1;-1", "x;;'=1;'-1"),
        ("x; \"=cmd|' /C calc'!A0\"", "x; \"'=cmd|' /C calc'!A0\""),
        ("Thanks @all", "Thanks '@all"),
        ("1 -(2)", "1 '-(2)"),
        ("x;+12125551212 y", "x;'+12125551212 y"),
        ("+12125551212;x", "'+12125551212;x"),
        ("x:= 1+41", "x:'= 1+41"),
        ("x =\u00a01+41", "x '=\u00a01+41"),
        ("x =", "x '="),
        ('x ="&A1', "x '=\"&A1"),
        ("now: -5 + A1", "now: '-5 + A1"),
    ],
)
def test_an_apostrophe_stands_in_front_of_each_formula(text, cell):
    assert strict_rows(written(text))[1][1] == cell


@pytest.mark.parametrize(
    "text",
    [
        "a=1, 1-2; ab@example.com",
        "see you @ 5 - or later",
        "it is -5 outside and -7.5; at night",
        "ok :-) or :) or 1 + 1 = 2",
        "+12125551212",
        "old;+12125551212;+12125551313",
        "call +12125551212 or +1 212 555 0142",
        "tel:+12125551212",
        "2026-11-23T04:34:00.123456Z",
        "https://example.com/?a=b&c=-d",
        "x;'=1",
    ],
)
def test_what_is_no_formula_stays_as_it_is(text):
    assert strict_rows(written(text))[1][1] == text


alphabet = st.sampled_from(
    [*SEPARATORS, *LINE_BREAKS, *SIGNS, *UNSEEN, *"\"'x1(){}[]\\", "+12125551212"]
)
texts = st.lists(alphabet, max_size=9).map("".join)


@given(
    st.lists(
        st.one_of(texts, st.none(), st.dictionaries(texts, texts | st.lists(texts))),
        min_size=1,
        max_size=4,
    )
)
def test_no_cell_of_any_reader_is_live(values):
    assert live_cells(written(*values)) == []


def test_the_model_finds_what_exact_mode_leaves():
    """The control: each separator and each reader sees the formula."""
    for separator in SEPARATORS:
        found = live_cells(written(f"x{separator}=1+41{separator}y", defused=False))
        assert separator in {each for each, _ in found}
    assert live_cells(written("x\n=1+41", defused=False))


def test_a_columns_name_is_defused_behind_separators_too():
    header = table(columns=("a;=1+1",)).header
    assert live_cells(header) == []
    assert strict_rows(header) == [["id", "a;'=1+1"]]


# values that are no text


@given(st.dictionaries(texts, texts | st.lists(texts) | st.integers() | st.none(), max_size=4))
def test_json_means_the_same(value):
    assert json.loads(strict_rows(written(value))[1][1]) == value


def test_json_without_formulas_reads_as_before():
    value = {"Name": "Bill - or Bob", "DOB": "1/1/2000", "Phone": "+12125551212", "Score": -5}
    cell = '{"Name":"Bill - or Bob","DOB":"1/1/2000","Phone":"+12125551212","Score":-5}'
    assert strict_rows(written(value))[1][1] == cell


# quotes


async def test_every_text_is_quoted(tmp_path):
    archive = sink(tmp_path, columns=("a", "b", "c", "d"))
    await archive.send_batch([delivery(1, {"a": "x", "b": "", "c": None, "d": 7})])
    await archive.close()
    expected = f'"id","a","b","c","d"\r\n"{event_id(1)}","x","",,"7"\r\n'
    assert (tmp_path / "out/events.csv").read_bytes() == expected.encode()


async def test_exact_mode_writes_the_bytes_it_always_wrote(tmp_path):
    archive = sink(tmp_path, columns=("a", "b"), mode="exact")
    await archive.send_batch([delivery(1, {"a": "x;=1+41;y", "b": "two\nlines"})])
    await archive.close()
    expected = f'id,a,b\r\n{event_id(1)},x;=1+41;y,"two\nlines"\r\n'
    assert (tmp_path / "out/events.csv").read_bytes() == expected.encode()


@pytest.mark.parametrize("mode", ["spreadsheet", "exact"])
@pytest.mark.parametrize(
    "header",
    [
        ",".join([*rows_module.ATTRIBUTES, *rows_module.DATA]),
        ",".join(f'"{name}"' for name in (*rows_module.ATTRIBUTES, *rows_module.DATA)),
    ],
    ids=["plain", "quoted"],
)
async def test_a_file_goes_on_whether_its_header_is_quoted_or_not(tmp_path, mode, header):
    file = tmp_path / "out/events.csv"
    file.parent.mkdir()
    before = f"{header}\r\n{event_id(1)}{',' * 15}\r\n".encode()
    file.write_bytes(before)
    archive = sink(tmp_path, mode=mode, rotate={"size": "1MiB"})
    await archive.send_batch([delivery(2)])
    await archive.close()
    assert [path.name for path in file.parent.glob("*.csv")] == ["events.csv"]
    assert file.read_bytes().startswith(before)
    assert [row[0] for row in strict_rows(file.read_bytes())[1:]] == [event_id(1), event_id(2)]


@pytest.mark.parametrize("rotate", [{"size": "1B"}, {"every": "day"}])
async def test_a_file_with_a_header_alone_is_not_put_away(tmp_path, rotate):
    file = tmp_path / "out/events.csv"
    file.parent.mkdir()
    file.write_bytes(b"id,a\r\n")
    archive = sink(tmp_path, columns=("a",), rotate=rotate)
    await archive.send_batch([delivery(2, {"a": "x"})])
    await archive.close()
    assert [path.name for path in file.parent.glob("*.csv")] == ["events.csv"]
