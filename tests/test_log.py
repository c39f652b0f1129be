"""What is logged: for a terminal, for a journal, and never a contact's number."""

import io
import logging

import orjson
import pytest

from relay import log


@pytest.fixture
def stream():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    log.set_up(logging.INFO, stream)
    yield stream
    root.handlers[:], root.level = handlers, level


def test_a_line_is_json_where_nobody_looks_at_a_terminal(stream):
    logging.getLogger("relay.sinks.crm").warning("parked for %g s", 60)
    line = orjson.loads(stream.getvalue())
    assert (line["level"], line["logger"]) == ("warning", "relay.sinks.crm")
    assert line["message"] == "parked for 60 s"


@pytest.mark.parametrize("arguments", [("sent +12125550177",), ("sent %s", "+12125550177")])
def test_a_number_that_a_plugin_logs_shows_its_last_digits_only(stream, arguments):
    logging.getLogger("relay.sinks.crm").error(*arguments)
    assert orjson.loads(stream.getvalue())["message"] == "sent …0177"


def test_ids_stay_whole(stream):
    logging.getLogger("relay").info("event 01a206f0-9b4e-7183-862d-155512345678")
    assert "155512345678" in stream.getvalue()


def test_an_exceptions_text_is_not_logged(stream):
    logging.getLogger("relay").error("it failed", exc_info=ValueError("+12125550177"))
    assert "5550177" not in stream.getvalue()
    assert "ValueError" in stream.getvalue()
