"""What is logged: for a terminal, for a journal, and never a contact's number."""

import gc
import io
import logging
import os
import sys
import threading
import warnings

import orjson
import phonenumbers
import pytest
from phonenumbers import PhoneNumberFormat

from relay.monitoring import logs
from relay.redact import LEAST, SHOWN, NumberMatcher, mask_all

FORMS = (
    PhoneNumberFormat.E164,
    PhoneNumberFormat.INTERNATIONAL,
    PhoneNumberFormat.NATIONAL,
    PhoneNumberFormat.RFC3966,
)


@pytest.fixture
def stream():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.set_up(logging.INFO, stream)
    yield stream
    root.handlers[:], root.level = handlers, level


def test_a_line_is_json_where_nobody_looks_at_a_terminal(stream):
    logging.getLogger("relay.sinks.crm").warning("parked for %g s", 60)
    line = orjson.loads(stream.getvalue())
    assert (line["level"], line["logger"]) == ("warning", "relay.sinks.crm")
    assert line["message"] == "parked for 60 s"


SPELLINGS = (
    "+12125550177",
    "2125550177",
    "12125550177",
    "0012125550177",
    "(212) 555-0177",
    "(212)555-0177",
    "212-555-0177",
    "212.555.0177",
    "212 555 0177",
    "212/555/0177",
    "1-212-555-0177",
    "+1 (212) 555-0177",
    "212 - 555 - 0177",
    "212‑555–0177",  # as word processors have it
    "212\xa0555\xa00177",
    "'212\\xa0555\\xa00177'",
    "555-0177",
    "%2B12125550177",
    "%28212%29%20555-0177",
    "(212)+555-0177",
    "2125550177x12",
    "2125550177ext12",
    "tel:2125550177",
    "phone_2125550177",
    "'\\n2125550177'",
    "2027-01-15 2125550177",
    "2125550177, 2125550177",
    "2125550177 2125550177",
    "['2125550177']",
    "+12125550177and",
    # of other countries
    "01 23 45 01 77",
    "01.23.45.01.77",
    "20550177",
    "0171/2550177",
    "4930 1234 0177",
)
NO_NUMBERS = (
    "01a206f0-9b4e-7183-862d-155512345678",
    "00000000-0000-7000-8000-000012345678",
    "01a206f09b4e7183862d155512345678",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "003550000012345AAA",
    "2027-01-15",
    "2027-01-15T08:00:00Z",
    "2027-01-15 08:00:00.123456",
    "2027-01-15 08:00:00,123",
    "2027-01-15T08:00:00.123456+00:00",
    "20270115T080000Z",
    "08:00:00.123456",
    "data/events.2027-01-15.0001.csv is full",
    "data/events.2027-01-15T08.0001.csv is full",
    "data/events.2027-01.0001.csv is full",
    "https://203.0.113.254:54321/v59.0/",
    "connect to 192.168.100.100 port 8443 failed",
    "[2001:db8::1234:5678]:8080",
    "aiohttp 3.13.2 on Python 3.11.2",
    "HTTP/1.1 503, 200, 404",
    "67108864 bytes",
    "64MiB, 12345678B, 1500000us",
    "took 0.12345678901 s",
    "took 1500000 µs",
    "after 350 ms",
    "1763900000123456",
    "20 of 100 records, attempt 3 of 14",
    "84700/JOIN",
)


@pytest.mark.parametrize("number", SPELLINGS)
@pytest.mark.parametrize(
    "logger", ["relay.sinks.crm", "relay.sources.texter", "relay_plugin_0123_ntfy", "asyncio", ""]
)
def test_a_number_that_others_log_shows_its_last_digits_only(stream, logger, number):
    logging.getLogger(logger).error("sent %s", number)
    message = orjson.loads(stream.getvalue())["message"]
    assert "…" in message
    digits = "".join(filter(str.isdigit, message.replace("2027-01-15", "")))
    assert len(digits) < 2 * SHOWN + len("12"), message


def examples():
    """A number of each country that has long ones, in E.164, and the ways to write it."""
    for region in phonenumbers.SUPPORTED_REGIONS:
        number = phonenumbers.example_number(region)
        plain = phonenumbers.national_significant_number(number)
        if len(plain) >= LEAST:
            forms = (phonenumbers.format_number(number, form) for form in FORMS)
            mobile = phonenumbers.format_number(number, PhoneNumberFormat.E164)
            yield mobile, {plain, mobile[1:], "00" + mobile[1:], *forms}


def test_a_number_of_any_country_in_any_form_is_masked():
    checked = 0
    for mobile, spellings in examples():
        for spelling in spellings:
            for said in (f"sent {spelling}", f"{spelling}: no", repr({"to": spelling})):
                assert NumberMatcher(mobile).within(said.encode())
                assert not NumberMatcher(mobile).within(mask_all(said).encode()), said
                checked += 1
    assert checked > 3000


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_what_is_no_number_stays_whole(stream, text):
    logging.getLogger("relay.sinks.crm").error("it says %s", text)
    assert orjson.loads(stream.getvalue())["message"] == f"it says {text}"


def test_the_relays_own_lines_keep_their_sizes_but_no_number(stream):
    logging.getLogger("relay.ballast").error("67108864 of +12125550177")
    assert orjson.loads(stream.getvalue())["message"] == "67108864 of …0177"


def test_words_that_do_not_fit_their_values_are_logged_without_these(stream):
    logging.getLogger("relay.sinks.crm").error("sent %d", "2125550177")
    assert orjson.loads(stream.getvalue())["message"] == "sent %d"


def test_what_is_no_text_is_replaced(stream):
    logging.getLogger("relay.sinks.crm").error("sent \ud800")
    assert orjson.loads(stream.getvalue())["message"] == "sent ?"


def test_an_exceptions_text_is_not_logged(stream):
    logging.getLogger("relay").error("it failed", exc_info=ValueError("+12125550177"))
    assert "5550177" not in stream.getvalue()
    assert "ValueError" in stream.getvalue()


def failing_in(file):
    """What is caught of a plugin whose file has this name."""
    try:
        exec(compile("1 / 0", file, "exec"))
    except ZeroDivisionError:
        return sys.exc_info()


@pytest.mark.parametrize("folder", ["/tmp/\udcff", "/tmp/\x1b[2J"])
@pytest.mark.parametrize("formatter", [logs.Lines(), logs.JsonLines(), logs.JournalLines()])
def test_a_file_of_any_name_is_told(stream, formatter, folder):
    handler = logging.getLogger().handlers[0]
    handler.setFormatter(formatter)
    logging.getLogger("relay\udcff").error("it failed", exc_info=failing_in(f"{folder}/x.py"))
    written = stream.getvalue()
    assert "ZeroDivisionError" in written
    assert written.encode().replace(b"\n", b"").decode().isprintable()


# a terminal


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(stream):
    terminal = Terminal()
    logs.set_up(logging.INFO, terminal)
    return terminal


FORGED = "\x1b]0;title\x07\n12:00:00 INFO    relay: all is well\r\x9b2J\u2028\u202e"


def test_what_others_say_moves_no_cursor_and_begins_no_line(terminal):
    logging.getLogger("relay.sinks.crm").warning("paused: %s é", FORGED)
    line, end, rest = terminal.getvalue().partition("\n")
    assert (end, rest) == ("\n", "")
    assert line.isprintable()
    assert line.endswith("é")


def test_the_way_to_an_exception_keeps_its_lines(terminal):
    logging.getLogger("relay").error("it failed", exc_info=failing_in("x.py"))
    said, kind, *frames = terminal.getvalue().splitlines()
    assert said.endswith("it failed")
    assert kind == "ZeroDivisionError"
    assert frames[-1].startswith("  x.py:1 in ")


# what nobody logs


class Unraisable:
    """Fails where nobody can be told."""

    def __del__(self):
        raise ValueError("2125550177")


def thread():
    failing = threading.Thread(target=int, args=("2125550177?",))
    failing.start()
    failing.join()


def unraisable():
    Unraisable()
    gc.collect()


def end():
    sys.excepthook(ValueError, ValueError("2125550177"), None)


def warning():
    warnings.warn("2125550177\nis out of date", UserWarning, stacklevel=1)


@pytest.fixture
def caught(stream, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    logs.catch_the_rest()
    return stream


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("fails", [thread, unraisable, end, warning])
def test_what_python_would_print_is_a_line_without_the_number(caught, capfd, fails):
    fails()
    (line,) = caught.getvalue().splitlines()
    assert "5550177" not in line.replace("…0177", "")
    assert orjson.loads(line)["level"] in {"error", "warning"}
    assert capfd.readouterr().err == ""


# the journal


@pytest.mark.parametrize(
    ("level", "priority"), [(logging.DEBUG, 7), (logging.WARNING, 4), (logging.ERROR, 3)]
)
def test_the_journal_is_told_how_bad_it_is(tmp_path, stream, level, priority):
    with (tmp_path / "journal").open("w+") as file:
        status = os.fstat(file.fileno())
        journal = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        logs.set_up(logging.DEBUG, file, journal)
        logging.getLogger("relay").log(level, "a line\nand another")
        file.seek(0)
        (line,) = file.readlines()
    assert line.startswith(f"<{priority}>{{")
    assert orjson.loads(line[3:])["message"] == "a line\nand another"


def test_a_file_that_is_not_the_journal_gets_no_priority(tmp_path, stream):
    with (tmp_path / "log").open("w+") as file:
        logs.set_up(logging.INFO, file, {"JOURNAL_STREAM": "8:1234"})
        logging.getLogger("relay").error("a line")
        file.seek(0)
        assert file.read().startswith("{")
