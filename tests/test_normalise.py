"""Callbacks become events: kinds, names, numbers, countries, labels, consent."""

import random

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st
from listening import KINDS, QUERIES
from sumotextsource import consent, module, understand

from relay import phone
from relay.event import InvalidCallback, RawCallback
from relay.phone import alpha_2

POLL = b"mobile=2125551212&reply=A&"


def event(query: bytes, *, test: bool = False, **source):
    callback = RawCallback("sumotext", "GET", query, "", b"", 1_800_000_000_123_456, test)
    return understand(callback, **source)


def data(query: bytes, **source):
    return event(query, **source).data


def refusal(query: bytes, **source) -> str:
    with pytest.raises(InvalidCallback) as raised:
        event(query, **source)
    return raised.value.reason


def test_the_first_example_becomes_this_event():
    assert event(QUERIES[0]).to_dict() == {
        "specversion": "1.0",
        "id": "id-1",
        "source": "/callbacks/sumotext",
        "type": "com.sumotext.web_form",
        "subject": "84700/SOMEKEY",
        "time": "2027-01-15T08:00:00.123456Z",
        "datacontenttype": "application/json",
        "data": {
            "mobile": "+12125551212",
            "country": "US",
            "short_code": "84700",
            "keyword": "SOMEKEY",
            "carrier": "VERIZONUS",
            "message": None,
            "message_id": None,
            "reply": None,
            "label": None,
            "consent": None,
            "fields": {"Name": "Bill", "DOB": "1/1/2000", "Zip": "10024"},
            "parameters": [
                ["country", "USA"],
                ["shortcode", "84700"],
                ["key", "SOMEKEY"],
                ["mobile", "2125551212"],
                ["carrierId", "VERIZONUS"],
                ["Name", "Bill"],
                ["DOB", "1/1/2000"],
                ["Zip", "10024"],
            ],
        },
    }


def test_the_examples_are_of_the_right_kinds_and_survive_json():
    events = [event(query) for query in QUERIES]
    assert [each.type for each in events] == [f"com.sumotext.{kind}" for kind in KINDS]
    assert {each.data["mobile"] for each in events} == {"+12125551212"}
    assert {each.data["country"] for each in events} == {"US"}
    assert [each.data["label"] for each in events[1:3]] == ["Tampa", "Tampa"]
    assert [each.data["fields"] for each in events[1:3]] == [{"city": "Tampa"}, {}]
    assert [each.subject for each in events[3:]] == ["keyword", "84700/SOMEKEYWORD", "84700/SUMOX"]
    assert events[4].data["fields"] == {"Name": "Mary Jane ", "Zip": "10054"}
    assert events[5].data["message"] == "have a nice day"
    assert events[5].data["message_id"] == "2xgh679okl34x"
    for each in events:
        assert type(each).from_json(each.to_json()) == each


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        (b"smsid=1&carrierId=V&reply=A&lead=K&key=K&msg=M", "message"),
        (b"carrierId=V&reply=A&lead=K&key=K&msg=M", "web_form"),
        (b"carrierId=", "web_form"),
        (b"reply=A&lead=K&key=K&msg=M", "poll"),
        (b"lead=K&key=K&msg=M", "text_4_info"),
        (b"key=K&msg=M", "message"),
        (b"KEY=K&Msg=M", "message"),
        (b"CARRIER_ID=V", "web_form"),
        (b"carrier-id=V", "web_form"),
        (b"Carrier%20Id=V", "web_form"),
    ],
)
def test_the_kind_is_the_first_that_fits(query, kind):
    assert event(b"mobile=2125551212&" + query).type == f"com.sumotext.{kind}"


@pytest.mark.parametrize("query", [b"", b"key=K", b"msg=M", b"carrier=V", b"keyword=K&msg=M"])
def test_no_kind_is_not_understood(query):
    assert "tells the kind" in refusal(b"mobile=2125551212&" + query)


def test_a_source_can_fix_the_kind():
    assert event(b"mobile=2125551212", kind="poll").type == "com.sumotext.poll"
    assert event(QUERIES[0], kind="message").type == "com.sumotext.message"


@pytest.mark.parametrize(
    "name", ["shortcode", "short code", "short_code", "Short-Code", "SHORTCODE", " short\tcode "]
)
def test_known_names_match_whatever_their_spelling(name):
    query = POLL + name.replace(" ", "+").replace("\t", "%09").encode() + b"=84700"
    assert data(query)["short_code"] == "84700"
    assert data(query)["fields"] == {}


def test_unknown_names_are_kept_as_sent_and_repeats_become_a_list():
    assert data(POLL + b"First+Name=A&first+name=B&First+Name=A&x=&x=2&x=3")["fields"] == {
        "First Name": ["A", "A"],
        "first name": "B",
        "x": ["", "2", "3"],
    }


def test_of_known_names_that_repeat_the_first_is_the_vendors():
    found = data(b"country=USA&key=A&key=A&lead=B&KEY=C&mobile=2125551212&reply=A&Country=Elbonia")
    assert found["keyword"] == "A"
    assert found["country"] == "US"
    assert found["fields"] == {"lead": "B", "KEY": "C", "Country": "Elbonia"}
    assert found["label"] is None


def test_a_known_name_without_a_value_is_null():
    found = data(b"mobile=2125551212&reply&key=&msg=&label=&smsid=&key=B")
    assert found["keyword"] == "B"
    for name in ("reply", "message", "label", "message_id"):
        assert found[name] is None
    assert found["fields"] == {}


@pytest.mark.parametrize(
    ("query", "label"),
    [
        (b"city=Tampa", "Tampa"),
        (b"city=Tampa&zip=1", None),
        (b"label=Miami&city=Tampa", "Miami"),
        (b"label=&city=Tampa", "Tampa"),
        (b"city=", None),
        (b"city=Tampa&city=Miami", None),
        (b"key=A&key=B", None),
    ],
)
def test_a_poll_takes_its_label_from_the_only_other_parameter(query, label):
    assert data(POLL + query)["label"] == label


def test_only_a_poll_does_so():
    assert data(b"mobile=2125551212&carrierId=V&city=Tampa")["label"] is None


def test_a_source_can_rename():
    found = data(POLL + b"City=Tampa&zip=1", rename={"city": "label", "zip": "Postal Code"})
    assert found["label"] == "Tampa"
    assert found["fields"] == {"Postal Code": "1"}
    assert ["City", "Tampa"] in found["parameters"]


@pytest.mark.parametrize(
    ("query", "subject"),
    [
        (b"shortcode=84700&key=A", "84700/A"),
        (b"shortcode=84700", "84700"),
        (b"key=A", "A"),
        (b"", None),
        (b"key=%00A%0A", "A"),
        (b"key=%01", None),
    ],
)
def test_the_subject_is_what_is_known_of_short_code_and_keyword(query, subject):
    assert event(POLL + query).subject == subject


def test_control_characters_survive_as_data():
    found = event(b"mobile=2125551212&key=K&msg=%00a%1Bb%0D%0A")
    assert found.data["message"] == "\0a\x1bb\r\n"
    assert type(found).from_json(found.to_json()) == found


def test_a_test_callback_makes_a_test_event():
    assert event(QUERIES[0], test=True).test


# numbers


@pytest.mark.parametrize(
    ("query", "mobile", "country"),
    [
        (b"mobile=2125551212", "+12125551212", "US"),
        (b"mobile=(212) 555-1212", "+12125551212", "US"),
        (b"mobile=12125551212", "+12125551212", "US"),
        (b"mobile=%2B12125551212", "+12125551212", "US"),
        (b"mobile=+12125551212", "+12125551212", "US"),
        (b"mobile=+447400123456", "+447400123456", "GB"),
        (b"mobile=+6591234567", "+6591234567", "SG"),
        (b"mobile=%202125551212%20", "+12125551212", "US"),
        (b"mobile=07400123456&country=UK", "+447400123456", "GB"),
        (b"mobile=07400123456&country=GBR", "+447400123456", "GB"),
        (b"mobile=4165551212&country=Canada", "+14165551212", "CA"),
        (b"mobile=4165551212", "+14165551212", "CA"),
        (b"mobile=4165551212&country=Nowhere", "+14165551212", "CA"),
        (b"mobile=7875551212", "+17875551212", "PR"),
        (b"mobile=%EF%BC%92125551212", "+12125551212", "US"),
        (b"mobile=5555551212", "+15555551212", "US"),
        (b"mobile=%2B441111111111", "+441111111111", None),
        (b"mobile=%2B80012345678", "+80012345678", None),
        (b"mobile=2125551212&mobile=%2B1+212+555+1212&mobile=", "+12125551212", "US"),
    ],
)
def test_numbers_become_e164(query, mobile, country):
    found = data(query + b"&reply=A")
    assert (found["mobile"], found["country"]) == (mobile, country)


def test_the_sources_country_decides_where_the_callback_names_none():
    assert data(b"reply=A&mobile=07400123456", country="GB")["mobile"] == "+447400123456"


@pytest.mark.parametrize(
    ("query", "why"),
    [
        (b"", "missing"),
        (b"mobile=", "missing"),
        (b"mobile=5551212", "no number"),
        (b"mobile=1", "no number"),
        (b"mobile=abc", "no number"),
        (b"mobile=21255512123", "no number"),
        (b"mobile=%00", "no number"),
        (b"mobile=" + b"2" * 5000, "no number"),
        (b"mobile=2125551212&mobile=2125551213", "differ"),
        (b"mobile=2125551212&Mobile=x", "differ"),
    ],
)
def test_missing_impossible_or_different_numbers_are_not_understood(query, why):
    reason = refusal(query + b"&reply=A")
    assert why in reason
    assert not any(character.isdigit() for character in reason)


NANP = ["US", "CA", "PR", "JM", "DO", "BS"]


def by_phonenumbers(number: str, region: str) -> str:
    parsed = phonenumbers.parse(number, region)
    possible = phonenumbers.is_possible_number_with_reason(parsed)
    assert possible == phonenumbers.ValidationResult.IS_POSSIBLE
    return phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)


def test_the_short_way_for_ten_digits_equals_phonenumbers():
    """20,000 random numbers take the short way and phonenumbers' own, and end the same."""
    random.seed(20261123)
    for count in range(20_000):
        number = str(random.randrange(2_000_000_000, 10_000_000_000))
        region = NANP[count % len(NANP)]
        assert phone.is_plain_nanp(number)
        assert phone.e164(number, region) == by_phonenumbers(number, region)


def test_the_country_of_a_number_is_decided_by_its_first_six_digits():
    random.seed(20261123)
    for _ in range(10_000):
        number = "+1" + str(random.randrange(2_000_000_000, 10_000_000_000))
        region = phonenumbers.region_code_for_number(phonenumbers.parse(number))
        assert phone.country(number, "") == region


@given(st.text(max_size=80), st.sampled_from(["US", "GB", "DE", "XX", ""]))
def test_any_text_is_a_number_or_none(text, region):
    number = phone.e164(text, region)
    assert number is None or (number[0] == "+" and number[1:].isdigit())


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("US", "US"),
        ("usa", "US"),
        ("U.S.A.", "US"),
        ("United States", "US"),
        ("Canada", "CA"),
        ("CAN", "CA"),
        ("UK", "GB"),
        ("United Kingdom", "GB"),
        ("gbr", "GB"),
        ("NO", "NO"),
        ("DEU", "DE"),
        ("", None),
        ("1", None),
        ("Atlantis", None),
        ("ZZ", None),
    ],
)
def test_countries_are_known_by_codes_and_names(written, code):
    assert alpha_2(written) == code


def test_the_table_of_countries_agrees_with_phonenumbers():
    for region in phonenumbers.SUPPORTED_REGIONS:
        if region not in ("AC", "TA"):  # islands without a code in ISO 3166
            assert alpha_2(region) == region


# consent


@pytest.mark.parametrize(
    "message",
    [
        "STOP",
        "stop",
        "Stop.",
        " s t o p ",
        "STOPALL",
        "Stop All",
        "UNSUBSCRIBE",
        "cancel",
        "End!",
        "QUIT",
        "revoke",
        "OPTOUT",
        "OPT OUT",
        "opt-out",
        "“STOP”",
        "STOP\x00",
        "ＳＴＯＰ",
        "st_op",
    ],
)
def test_stop_words_are_opt_outs(message):
    assert consent(message) == "opt_out"


@pytest.mark.parametrize("message", ["START", "start", "Unstop!", "un stop"])
def test_start_words_are_opt_ins(message):
    assert consent(message) == "opt_in"


@pytest.mark.parametrize("message", ["", "!", "STOP it", "don't stop", "YES", "stopp", "HELP"])
def test_other_messages_say_nothing_of_consent(message):
    assert consent(message) is None


@pytest.mark.parametrize("message", ["STOP" + " " * 100_000, "!" * 500 + "STOP" + "." * 500])
def test_what_surrounds_a_stop_word_does_not_count(message):
    assert consent(message) == "opt_out"


def test_a_number_in_too_many_spellings_is_not_understood():
    """Each costs a while; none is lost, as what is not understood is kept."""
    most = module.MOST_SPELLINGS
    spellings = [f"mobile={'.' * dots}2125551212&".encode() for dots in range(most + 1)]
    assert data(b"".join(spellings[1:]) + b"reply=A")["mobile"] == "+12125551212"
    with pytest.raises(InvalidCallback, match="more than 10 ways"):
        data(b"".join(spellings) + b"reply=A")


@pytest.mark.parametrize("query", [b"carrierId=V", b"lead=K", b"smsid=1", b"reply=A", b"key=K"])
def test_an_opt_out_is_one_whatever_callback_brings_it(query):
    assert data(b"mobile=2125551212&msg=Stop%21&" + query)["consent"] == "opt_out"


@given(st.binary(max_size=300))
def test_nothing_is_raised_but_not_understood(query):
    for start in (b"", b"mobile=2125551212&reply=A&"):
        try:
            found = event(start + query)
        except InvalidCallback:
            continue
        assert type(found).from_json(found.to_json()) == found
