"""Tables fit the terminal: what has no room beside the rest stands beneath its row, whole."""

import io
import json
import re
import sys

import pytest

from relay.cli.output import print_json, print_json_line, print_table

STYLE = re.compile(r"\x1b\[\d*m")
ID = "01a208cf-5164-74ab-91b8-ef296ef6dc6c"
REASON = "3 contacts failed in a row, the last with: Connection refused"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def shown(monkeypatch):
    def show(width, columns, *rows):
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(sys, "stdout", Terminal())
        print_table(columns, rows)
        text = STYLE.sub("", sys.stdout.getvalue())
        return [line.strip() for line in text.splitlines() if line.strip()]

    return show


def test_what_fits_is_a_table(shown):
    lines = shown(80, ("Sink", "Dead", "Id"), ("crm", 1000, ID))
    assert lines[2].split() == ["crm", "1,000", ID]
    assert len(lines) == 3


def test_an_id_that_has_no_room_stands_beneath_its_row_on_one_line(shown):
    heading, _, *lines = shown(50, ("Sink", "Received", "Id"), ("crm", "2026-11-23", ID))
    assert heading.split() == ["Sink", "Received"]
    assert [line.split() for line in lines] == [["crm", "2026-11-23"], ["Id:", ID]]


def test_a_last_text_is_broken_at_its_words_where_there_is_room(shown):
    lines = shown(60, ("Sink", "State", "Reason"), ("hook", "parked", REASON))
    words = [word for line in lines[2:] for word in line.split()]
    assert words == ["hook", "parked", *REASON.split()]


def test_columns_stand_beneath_each_other_whatever_their_rows_hold(shown):
    rows = ("a", 1, "x" * 60), ("a-long-name", 1000, "y" * 60)
    _, _, first, _, second, _ = shown(40, ("Sink", "Pending", "From"), *rows)
    assert len(first) == len(second)


def test_only_a_text_is_broken_and_begins_where_its_heading_does(shown):
    rows = ("sumotext", "422", REASON, ID), ("sumotext", "422", "3", ID)
    heading, _, *lines = shown(60, ("Source", "Answer", "Reason", "Id"), *rows)
    firsts = [line for line in lines if line.startswith("sumotext")]
    assert [line.rindex(" 3") + 1 for line in firsts] == [heading.index("Reason")] * 2


@pytest.mark.parametrize("write", [print_json, print_json_line])
@pytest.mark.parametrize(
    ("encoding", "plain"), [("utf-8", "é✓"), ("iso-8859-1", ""), ("ascii", "")]
)
def test_json_escapes_what_a_terminal_acts_upon_or_does_not_have(
    write, encoding, plain, monkeypatch
):
    """The value is the same: only how it is written changes."""
    value = {"says": "\x9b31m\u202eabc\u2028\x7f\x1b é✓ 🎉\ue000"}
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    write(value)
    stream.flush()
    text = stream.buffer.getvalue().decode()
    assert json.loads(text) == value
    assert {char for char in text if not char.isascii()} - set("🎉") == set(plain)
    assert all(char.isprintable() for char in text.replace("\n", ""))
