"""Consent in HubSpot: the last word of a number, alone, in every contact that has the number."""

import dataclasses

import pytest
from hubspotsink import MAP, delivery, key, kinds, mobile, opened, options
from stubs.hubspot import HubSpotStub
from stubs.hubspot_schema import Field
from stubs.vendor import serving

import relay

FIELD = "sms_opt_out"
CONSENT = {"field": FIELD}
NUMBER = "(212) 555-0001"
OUT = {FIELD: "true"}


@pytest.fixture
async def stub():
    stub = HubSpotStub()
    async with serving(stub.app) as stub.url:
        yield stub


def with_word(number=1, last="opt_out", record=None, **more):
    return dataclasses.replace(delivery(number, record, **more), last_word=last)


def word(number=1, last="opt_out", **more):
    """A delivery of nothing but a word of consent."""
    return dataclasses.replace(delivery(number, **more), record=None, last_word=last)


def calls(stub):
    return [call.path.rsplit("contacts/", 1)[1] for call in stub.calls]


def opted_out(stub):
    return [each.get(FIELD) for each in stub.records("contacts")]


def reason(outcome):
    assert isinstance(outcome, relay.Reject), outcome
    return outcome.reason


async def test_every_contact_with_the_number_is_written_and_nothing_else_of_it(stub):
    seeded = [
        {"lastname": "Doe", "mobilephone": NUMBER},
        {"lastname": "Roe", "phone": "+1 212 555 0001", "sms_key": "another"},
        {"lastname": "Poe", "sms_key": key(1)},
        {"lastname": "Other", "phone": "2125550002"},
        {"lastname": "Abroad", "phone": "+44 2125 550001"},
    ]
    ids = [stub.seed("contacts", values) for values in seeded]
    async with opened(stub.url, consent=CONSENT) as sink:
        (outcome,) = await sink.send_batch([word(1)])
    assert isinstance(outcome, relay.Delivered)
    expected = [{"id": each, **values} for each, values in zip(ids, seeded, strict=True)]
    expected = [each | (OUT if n < 3 else {}) for n, each in enumerate(expected)]
    assert stub.records("contacts") == expected
    assert calls(stub) == ["batch/read", "search", "batch/update"]
    inputs = stub.calls[-1].json()["inputs"]
    assert sorted(each["id"] for each in inputs) == ids[:3]
    assert [each["properties"] for each in inputs] == [OUT] * 3


async def test_a_start_is_written_the_same_way(stub):
    stub.seed("contacts", {"mobilephone": NUMBER, FIELD: "true"})
    async with opened(stub.url, consent=CONSENT) as sink:
        await sink.send_batch([word(1, "opt_in")])
    assert opted_out(stub) == ["false"]


async def test_keys_that_differ_by_case_alone_have_words_of_their_own(stub):
    for name in ("Ann", "ann"):
        stub.seed("contacts", {"sms_key": name})
    words = [word(1, fields={"Name": "Ann"}), word(2, "opt_in", fields={"Name": "ann"})]
    async with opened(stub.url, consent=CONSENT, key="{{ data.fields.Name }}") as sink:
        assert kinds(await sink.send_batch(words)) == ["Delivered"] * 2
    assert opted_out(stub) == ["true", "false"]


async def test_a_contact_is_made_only_where_there_is_none(stub):
    stub.fields["contacts"]["lastname"] = Field(required=True)
    async with opened(stub.url, consent=CONSENT, defaults={"lastname": "Unknown"}) as sink:
        assert kinds(await sink.send_batch([word(1), word(2)])) == ["Delivered"] * 2
        assert kinds(await sink.send_batch([word(1, "opt_in")])) == ["Delivered"]
    names = ("sms_key", "mobilephone", "lastname", FIELD)
    assert [tuple(each[name] for name in names) for each in stub.records("contacts")] == [
        (key(1), mobile(1), "Unknown", "false"),
        (key(2), mobile(2), "Unknown", "true"),
    ]


async def test_no_contact_is_made_where_the_options_say_so(stub):
    async with opened(stub.url, consent={**CONSENT, "create": False}) as sink:
        (outcome,) = await sink.send_batch([word(1)])
    assert isinstance(outcome, relay.Delivered)
    assert stub.records("contacts") == []


async def test_no_map_is_needed(stub):
    stub.seed("contacts", {"mobilephone": NUMBER})
    async with opened(stub.url, consent=CONSENT, columns=None) as sink:
        assert await sink.check() == []
        assert kinds(await sink.send_batch([with_word(1), delivery(2)])) == ["Delivered"] * 2
    assert opted_out(stub) == ["true"]


@pytest.mark.parametrize("multi_status", [True, False])
@pytest.mark.parametrize(
    "record",
    [
        {"email": "no address"},
        {"firstname": "see https://example.com"},
        {"lifecyclestage": "fan"},
        {"email": "taken@home.example"},
        {"nickname": "A"},
    ],
    ids=["a bad e-mail", "a name with a URL", "no option", "an e-mail of another", "no property"],
)
async def test_what_else_is_refused_keeps_no_word_away(stub, record, multi_status):
    stub.multi_status = multi_status
    stub.seed("contacts", {"email": "taken@home.example", "sms_key": "9"})
    stub.seed("contacts", {"mobilephone": NUMBER})
    async with opened(stub.url, consent=CONSENT, on_invalid="dead", on_conflict="dead") as sink:
        outcomes = await sink.send_batch([with_word(1, record=record), with_word(2, record=record)])
    assert "Delivered" not in kinds(outcomes)
    assert [each.consent for each in outcomes] == [True, True]
    contacts = {each.get("sms_key"): each.get(FIELD) for each in stub.records("contacts")}
    assert contacts == {"9": None, None: "true", key(2): "true"}


async def test_a_required_property_keeps_no_word_away(stub):
    """Neither what a new contact needs, nor an administrator's rule for those that are there."""
    stub.seed("contacts", {"mobilephone": NUMBER, "lifecyclestage": "customer"})
    stub.fields["contacts"]["company"] = Field(required_when=("lifecyclestage", "customer"))
    stub.fields["contacts"]["lastname"] = Field(required=True)
    defaults = {"company": "Unknown", "lastname": "Unknown"}
    async with opened(stub.url, consent=CONSENT, defaults=defaults) as sink:
        assert kinds(await sink.send_batch([word(1), word(2)])) == ["Delivered"] * 2
    assert opted_out(stub) == ["true", "true"]


async def test_the_map_never_writes_the_property_beside_others(stub):
    """A `map` of the time before may name it, and say something older."""
    async with opened(stub.url, consent=CONSENT) as sink:
        await sink.send_batch([with_word(1, record={FIELD: False, "city": "Tampa"})])
        await sink.send_batch([delivery(1, {FIELD: False, "city": "Miami"})])
    async with opened(stub.url, consent=CONSENT, columns=(*MAP, FIELD)) as sink:
        found = await sink.check()
    (contact,) = stub.records("contacts")
    assert (contact[FIELD], contact["city"]) == ("true", "Miami")
    assert found == [
        "map.sms_opt_out: options.consent writes it; the map's value is left out: remove it"
    ]


async def test_the_contact_that_the_record_finds_by_other_means_is_the_one(stub):
    old = stub.seed("contacts", {"email": "ann@home.example"})
    sent = with_word(1, "opt_in", {"email": "ann@home.example"})
    async with opened(stub.url, consent=CONSENT, match=["key", "email"]) as sink:
        assert await sink.send_batch([sent]) == [relay.Delivered(old)]
    assert opted_out(stub) == ["false"]


async def test_a_contact_that_the_record_makes_beside_others_of_the_number_is_written_too(stub):
    """Where several have the number none of them gets the key, and another contact is made."""
    for name in ("Doe", "Roe"):
        stub.seed("contacts", {"lastname": name, "mobilephone": NUMBER})
    async with opened(stub.url, consent=CONSENT, match=["key", "phone"]) as sink:
        assert kinds(await sink.send_batch([with_word(1)])) == ["Delivered"]
    assert opted_out(stub) == ["true"] * 3


async def test_an_opt_in_makes_no_second_contact_of_a_person_who_cannot_be_looked_for(stub):
    old = stub.seed("contacts", {"email": "ann@home.example"})
    sent = with_word(1, "opt_in", {"email": "ann@home.example"})
    async with opened(stub.url, consent=CONSENT, match=["key", "email"]) as sink:
        read, failing = sink._people._by_email, relay.Retry("no answer")

        async def fail(records):
            for record in records:
                record.outcome = failing

        sink._people._by_email = fail
        assert await sink.send_batch([sent]) == [failing]
        sink._people._by_email = read
        assert await sink.send_batch([sent]) == [relay.Delivered(old)]
    assert opted_out(stub) == ["false"]


async def test_a_stale_event_writes_its_word(stub):
    stub.seed("contacts", {"sms_key": key(1)})
    async with opened(stub.url, consent=CONSENT) as sink:
        assert kinds(await sink.send_batch([with_word(1, stale=True)])) == ["Delivered"]
    assert opted_out(stub) == ["true"]


@pytest.mark.parametrize("multi_status", [True, False])
async def test_what_cannot_be_written_to_one_contact_is_written_to_the_others_and_said(
    stub, multi_status
):
    stub.multi_status = multi_status
    first = stub.seed("contacts", {"mobilephone": NUMBER})
    stub.seed("contacts", {"mobilephone": NUMBER})
    stub.fault_row("UNHEARD_OF", id=first, count=9)
    async with opened(stub.url, consent=CONSENT) as sink:
        (outcome,) = await sink.send_batch([word(1)])
        assert stub.fired["UNHEARD_OF"] >= 1
    assert "1 of 2 contacts with the number were not written" in reason(outcome)
    assert not outcome.consent
    assert opted_out(stub) == [None, "true"]


async def test_a_contact_that_has_gone_is_tried_again(stub):
    """The search lags behind, so it may give contacts that have been deleted or merged."""
    first = stub.seed("contacts", {"mobilephone": NUMBER})
    stub.seed("contacts", {"mobilephone": NUMBER})
    stub.fault_row("OBJECT_NOT_FOUND", id=first)
    async with opened(stub.url, consent=CONSENT) as sink:
        (outcome,) = await sink.send_batch([word(1)])
    assert isinstance(outcome, relay.Retry)
    assert "has gone" in outcome.reason
    assert opted_out(stub) == [None, "true"]


@pytest.mark.parametrize(
    ("consent", "words"),
    [
        ({"field": FIELD, "opted_out": "yes"}, "INVALID_OPTION sms_opt_out"),
        ({"field": "sms_optout"}, "PROPERTY_DOESNT_EXIST sms_optout"),
    ],
)
async def test_a_property_or_value_that_hubspot_does_not_know_pauses(stub, consent, words):
    """Options alone can be the cause, so no word of consent is lost."""
    stub.seed("contacts", {"mobilephone": NUMBER})
    async with opened(stub.url, consent=consent, unknown_property="drop") as sink:
        outcomes = await sink.send_batch([word(1), word(2), delivery(3)])
    assert kinds(outcomes) == ["Pause", "Pause", "Delivered"]
    assert outcomes[0].reason.startswith(f"consent: {words}")
    assert "correct options.consent" in outcomes[0].reason


@pytest.mark.parametrize("people", [0, 1])
@pytest.mark.parametrize(("code", "kind"), [("READ_ONLY_VALUE", "Pause"), ("UNHEARD_OF", "Reject")])
async def test_no_contact_is_written_without_its_word(stub, people, code, kind):
    """Whatever HubSpot says against the word: a contact that lacks it is no success."""
    for _ in range(people):
        stub.seed("contacts", {"mobilephone": NUMBER})
    stub.fault_row(code, name=FIELD)
    async with opened(stub.url, consent=CONSENT) as sink:
        outcomes = await sink.send_batch([word(1)])
    assert stub.fired[code] == 1
    assert kinds(outcomes) == [kind]
    assert len(stub.records("contacts")) == people


async def test_several_properties_have_values_of_their_own(stub):
    stub.fields["contacts"]["sms_status"] = Field(
        "enumeration", "select", options=["Active", "Stopped"]
    )
    stub.seed("contacts", {"sms_key": key(1), "sms_status": "Active"})
    consent = {"field": FIELD, "fields": {"sms_status": {"opted_out": "Stopped", "opted_in": None}}}
    async with opened(stub.url, consent=consent) as sink:
        await sink.send_batch([word(1)])
        assert (
            stub.records("contacts")[0] | OUT | {"sms_status": "Stopped"}
            == stub.records("contacts")[0]
        )
        await sink.send_batch([word(1, "opt_in")])
    (contact,) = stub.records("contacts")
    assert (contact[FIELD], contact.get("sms_status")) == ("false", None)


async def test_a_contact_with_two_numbers_has_the_later_word(stub):
    stub.seed("contacts", {"phone": mobile(1), "mobilephone": mobile(2)})
    async with opened(stub.url, consent=CONSENT) as sink:
        outcomes = await sink.send_batch([word(1), word(2, "opt_in")])
    assert kinds(outcomes) == ["Delivered"] * 2
    assert opted_out(stub) == ["false"]


async def test_a_test_event_writes_nothing(stub):
    async with opened(stub.url, consent=CONSENT) as sink:
        await sink.send_batch([word(1, test=True)])
    assert stub.calls == []


@pytest.mark.parametrize("path", ["batch/read", "search", "batch/update"])
@pytest.mark.parametrize("fault", ["drop", "503", "drop_after_commit", "empty"])
async def test_a_lost_answer_is_tried_again(stub, path, fault):
    stub.seed("contacts", {"sms_key": key(1)})
    stub.fault(fault, on=path)
    async with opened(stub.url, consent=CONSENT) as sink:
        first, other = await sink.send_batch([with_word(1), delivery(2)])
        assert isinstance(first, relay.Retry)
        assert not first.consent
        assert kinds([other]) == ["Delivered"]
        (outcome,) = await sink.send_batch([with_word(1)])
    assert isinstance(outcome, relay.Delivered)
    assert opted_out(stub) == ["true", None]


async def test_records_without_words_cost_no_call_more(stub):
    async with opened(stub.url, consent=CONSENT) as sink:
        await sink.send_batch([delivery(n) for n in range(100)])
    assert calls(stub) == ["batch/upsert"]


async def test_a_hundred_words_cost_three_calls(stub):
    for number in range(100):
        stub.seed("contacts", {"mobilephone": mobile(number)})
    async with opened(stub.url, consent=CONSENT) as sink:
        await sink.send_batch([word(number) for number in range(100)])
        assert calls(stub) == ["batch/read", "search", "batch/update"]
        await sink.send_batch([word(number) for number in range(100, 200)])
    assert calls(stub)[3:] == ["batch/read", "search", "batch/upsert"]
    assert opted_out(stub) == ["true"] * 200


async def test_more_contacts_than_a_call_takes_are_all_written(stub):
    for _ in range(250):
        stub.seed("contacts", {"mobilephone": mobile(1)})
    async with opened(stub.url, consent=CONSENT) as sink:
        assert kinds(await sink.send_batch([word(1)])) == ["Delivered"]
    assert opted_out(stub) == ["true"] * 250
    assert calls(stub) == ["batch/read", *["search"] * 2, *["batch/update"] * 3]


@pytest.mark.parametrize("names", [0, 60])
async def test_no_question_is_longer_than_hubspot_takes(stub, names):
    """Whether it is asked for consent, or for people without a key."""
    only = [f"property_number_{number}" for number in range(names)]
    for number in range(100):
        stub.seed("contacts", {"mobilephone": f"+4915123456{number:04}"})
    sent = [word(number, mobile=f"+4915123456{number:04}") for number in range(100)]
    matching = {"match": ["key", "phone"], "only_if_empty": only}
    async with opened(stub.url, consent=CONSENT, **matching) as sink:
        outcomes = await sink.send_batch(sent)
        assert kinds(outcomes) == ["Delivered"] * 100
        sent = [delivery(number, mobile=f"+4915123456{number:04}") for number in range(100)]
        assert kinds(await sink.send_batch(sent)) == ["Delivered"] * 100
    assert opted_out(stub) == ["true"] * 100
    searches = [call for call in stub.calls if call.path.endswith("/search")]
    assert max(len(call.body) for call in searches) <= 3000
    assert [call.status for call in searches] == [200] * len(searches)


def test_it_should_name_a_property():
    with pytest.raises(ValueError, match="should name a field"):
        options(consent={"opted_out": True})


async def test_the_check_names_a_property_of_consent_that_is_not_there(stub):
    consent = {"field": ["sms_opt_out", "sms_optout"], "fields": {"city": {"opted_out": "x"}}}
    async with opened(stub.url, consent=consent) as sink:
        (found,) = await sink.check()
    assert found.startswith("options.consent: sms_optout: contacts have no such property")
    consent = {"fields": {"lifecyclestage": {"opted_out": "fan", "opted_in": "lead"}}}
    async with opened(stub.url, consent=consent) as sink:
        (found,) = await sink.check()
    assert found.startswith(
        "options.consent.opted_out: lifecyclestage: 'fan' is none of subscriber"
    )


async def test_the_check_names_what_numbers_are_found_by_where_it_is_not_there(stub):
    del stub.fields["contacts"]["hs_searchable_calculated_phone_number"]
    async with opened(stub.url, consent=CONSENT) as sink:
        (found,) = await sink.check()
    assert found.startswith("options.consent: contacts have no hs_searchable_calculated_phone")
    async with opened(stub.url) as sink:
        assert await sink.check() == []


async def test_an_object_of_ones_own_is_found_by_its_key(stub):
    stub.fields["2-123"] |= {"sms_opt_out": Field("bool", "booleancheckbox")}
    stub.seed("2-123", {"event_id": key(1), "mobile": mobile(1)})
    values = {"object": "2-123", "id_property": "event_id", "columns": ("message",)}
    async with opened(stub.url, consent=CONSENT, **values) as sink:
        assert await sink.check() == []
        assert kinds(await sink.send_batch([word(1), word(2)])) == ["Delivered"] * 2
    found = [(each["event_id"], each["sms_opt_out"]) for each in stub.records("2-123")]
    assert found == [(key(1), "true"), (key(2), "true")]


@pytest.mark.parametrize("fault", ["503", "drop"])
async def test_a_word_waits_with_its_person_where_no_contact_can_be_made_for_it_alone(stub, fault):
    """Without `defaults` only the event's own record has all that is required."""
    stub.fields["contacts"]["lastname"] = Field(required=True)
    stub.fault(fault, on="/batch/upsert")
    sent = [with_word(1, record={"lastname": "Doe"})]
    async with opened(stub.url, consent=CONSENT) as sink:
        (outcome,) = await sink.send_batch(sent)
        assert stub.fired[fault] == 1
        assert isinstance(outcome, relay.Retry), outcome
        (outcome,) = await sink.send_batch(sent)
    assert isinstance(outcome, relay.Delivered)
    assert opted_out(stub) == ["true"]


def of_vendor(number, contact, **more):
    """A delivery of another vendor's event, with an e-mail address in its data."""
    made = with_word(number, **more)
    event = dataclasses.replace(
        made.event,
        type="com.vendor.form.submitted",
        data={"email": f"ann{number}@example.com"},
        contact=contact,
        consent="opt_out",
    )
    return dataclasses.replace(made, event=event)


async def test_a_contact_that_is_no_number_has_no_word_and_keeps_none_from_others(stub):
    stub.seed("contacts", {"lastname": "Doe", "mobilephone": NUMBER})
    batch = [of_vendor(2, "ann2@example.com"), of_vendor(1, mobile(1))]
    async with opened(stub.url, consent=CONSENT, key="{{ data.email }}") as sink:
        email, number = await sink.send_batch(batch)
    assert reason(email) == (
        "consent: the contact is no phone number, as in +12125551212, to find records by"
    )
    assert isinstance(number, relay.Delivered)
    assert "true" in opted_out(stub)


async def test_an_event_without_a_word_needs_no_number(stub):
    stub.seed("contacts", {"lastname": "Doe", "sms_key": "ann2@example.com"})
    made = dataclasses.replace(of_vendor(2, "ann2@example.com"), last_word=None)
    async with opened(stub.url, match=["key", "phone"], key="{{ data.email }}") as sink:
        (outcome,) = await sink.send_batch([made])
    assert isinstance(outcome, relay.Delivered)
    (contact,) = stub.records("contacts")
    assert contact["firstname"] == "Ann 2"
