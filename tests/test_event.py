"""The event: its attributes beside the envelope, and the JSON that is kept of it."""

from dataclasses import replace

import orjson
import pytest

from relay.event import OPT_OUT, Event

DATA = {
    "mobile": "+12125551212",
    "keyword": "JOIN",
    "message": "stop",
    "message_id": "2xgh",
    "consent": OPT_OUT,
}
ENVELOPE = {
    "id": "1",
    "source": "/callbacks/a",
    "subject": None,
    "time": "2026-11-23T04:34:00.000000Z",
}


def event(kind: str = "com.sumotext.message", data=DATA, **attributes) -> Event:
    return Event(type=kind, data=data, **ENVELOPE, **attributes)


def attributes(made: Event) -> tuple:
    return made.contact, made.consent, made.dedup_key, made.topic


def test_sumotexts_attributes_are_those_of_its_data():
    assert attributes(event()) == ("+12125551212", OPT_OUT, "2xgh", "JOIN")
    assert attributes(event(data={})) == (None, None, None, None)
    assert attributes(event(topic="OTHER")) == ("+12125551212", OPT_OUT, "2xgh", "OTHER")


def test_another_vendors_data_gives_no_attributes():
    """It may have the same names with other meanings: `consent: true` is no opt-out."""
    data = {"mobile": {"country": 1}, "consent": True, "message_id": 7, "keyword": []}
    made = event("com.vendor.form.submitted", data)
    assert attributes(made) == (None, None, None, None)
    made = event("com.vendor.form.submitted", data, contact="ann@example.com", dedup_key="7")
    assert attributes(made) == ("ann@example.com", None, "7", None)


@pytest.mark.parametrize(
    ("kind", "short"),
    [("com.sumotext.text_4_info", "text_4_info"), ("com.vendor.form.submitted", "submitted")],
)
def test_the_kind_is_the_last_part_of_the_type(kind, short):
    assert event(kind).kind == short


@pytest.mark.parametrize(
    ("data", "content"), [(DATA, "stop"), ({}, None), ({"message": {"text": "stop"}}, None)]
)
def test_the_content_is_the_text_of_the_message(data, content):
    assert event(data=data).content == content


def test_a_sumotext_event_is_stored_as_earlier_releases_stored_it():
    assert event().to_stored_json() == event().to_json()
    assert event().to_stored_json() == (
        b'{"specversion":"1.0","id":"1","source":"/callbacks/a","type":"com.sumotext.message",'
        b'"time":"2026-11-23T04:34:00.000000Z","datacontenttype":"application/json","data":'
        b'{"mobile":"+12125551212","keyword":"JOIN","message":"stop","message_id":"2xgh",'
        b'"consent":"opt_out"}}'
    )


@pytest.mark.parametrize(
    "made",
    [
        event(),
        event(topic="OTHER"),
        event("com.vendor.opened"),
        event(
            "com.vendor.opened",
            {"mobile": 1},
            contact="ann@example.com",
            consent=OPT_OUT,
            dedup_key="7",
            topic="a",
            test=True,
            traceparent="00-1-2-01",
        ),
    ],
)
def test_the_stored_event_is_read_with_its_attributes(made):
    assert Event.from_json(made.to_stored_json()) == made


def test_what_sinks_get_has_no_attribute_of_the_relay():
    made = event("com.vendor.opened", {"a": 1}, contact="ann@example.com", topic="a")
    assert list(made.to_dict()) == [
        *("specversion", "id", "source", "type", "time", "datacontenttype", "data")
    ]
    assert orjson.loads(made.to_json()) == made.to_dict()


def test_a_copy_keeps_the_attributes():
    made = event("com.vendor.opened", {}, contact="ann@example.com", dedup_key="7")
    assert attributes(replace(made, id="2")) == attributes(made)
