"""Person accounts: a person who is an account and a contact in one."""

import dataclasses

import pytest
from salesforcesink import connected, delivered, delivery, key, mobile
from stubs.salesforce import SalesforceStub

import relay

ACCOUNT = {
    "object": "Account",
    "match": ["key", "phone"],
    "phone_fields": ["PersonMobilePhone", "Phone"],
    "consent": {"field": "SMS_Opt_Out__pc", "create": False},
}
COLUMNS = ("FirstName", "LastName", "PersonMobilePhone", "RecordTypeId")
PEOPLE = {"objects": ["Contact", "Lead"], "match": ["key", "phone"]}
LEAD = {"defaults": {"Company": "n/a"}}
NUMBER = "(212) 555-0001"


@pytest.fixture
def stub():
    return SalesforceStub()


@pytest.fixture
def persons(stub):
    return stub.enable_person_accounts()


def seeded(stub, persons, **values):
    return stub.seed("Account", {"RecordTypeId": persons.person, "LastName": "Doe", **values})


def of_person(number, persons, **more):
    """A delivery whose map is that of a person account."""
    record = {"MobilePhone": ..., "PersonMobilePhone": mobile(number)}
    return delivery(number, record | {"RecordTypeId": persons.person} | more)


def word(number=1):
    return dataclasses.replace(delivery(number), record=None, last_word="opt_out")


async def test_a_person_account_is_made_and_found(stub, persons):
    old = seeded(stub, persons, PersonMobilePhone=NUMBER)
    async with connected(stub, columns=COLUMNS, **ACCOUNT) as (_, sink):
        assert await sink.check() == []
        for _ in range(2):
            batch = [of_person(1, persons), of_person(2, persons)]
            assert all(delivered(await sink.send_batch(batch)))
    first, second = stub.records("Account")
    assert (first["Id"], first["SMS_Key__c"], first["LastName"]) == (old, key(1), "Last1")
    assert (second["SMS_Key__c"], second["Name"]) == (key(2), "First2 Last2")
    assert [each["LastName"] for each in stub.records("Contact")] == ["Last1", "Last2"]
    assert first["IsPersonAccount"]


async def test_a_word_of_consent_is_written_to_person_accounts(stub, persons):
    for values in ({"PersonMobilePhone": NUMBER}, {"SMS_Key__c": key(1)}, {"Phone": mobile(2)}):
        seeded(stub, persons, **values)
    async with connected(stub, columns=COLUMNS, **ACCOUNT) as (_, sink):
        assert delivered(await sink.send_batch([word(1), word(3)])) == [True, True]
    assert [each["SMS_Opt_Out__pc"] for each in stub.records("Account")] == [True, True, False]
    assert [each["SMS_Opt_Out__c"] for each in stub.records("Contact")] == [True, True, False]


async def test_without_the_record_type_of_persons_nothing_is_made(stub, persons):
    """The names of a person are none of a company's; the vendor says which."""
    async with connected(stub, columns=COLUMNS, **ACCOUNT) as (_, sink):
        (outcome,) = await sink.send_batch([of_person(1, persons, RecordTypeId=persons.business)])
    assert isinstance(outcome, relay.Pause)
    assert "bad field names on insert/update call: FirstName, LastName" in outcome.reason
    assert stub.records("Account") == []


async def test_the_users_own_record_type_serves(stub, persons):
    persons.default = persons.person
    async with connected(stub, columns=COLUMNS, **ACCOUNT) as (_, sink):
        record = {"MobilePhone": ..., "PersonMobilePhone": mobile(1)}
        assert delivered(await sink.send_batch([delivery(1, record)])) == [True]
        assert delivered(await sink.send_batch([word(1)])) == [True]
    (person,) = stub.records("Account")
    assert (person["IsPersonAccount"], person["SMS_Opt_Out__pc"]) == (True, True)


async def test_the_name_of_a_person_account_is_not_written(stub, persons):
    async with connected(stub, columns=COLUMNS, **ACCOUNT) as (_, sink):
        (outcome,) = await sink.send_batch([of_person(1, persons, Name="Acme")])
    assert isinstance(outcome, relay.Pause)
    assert "bad field names on insert/update call: Name" in outcome.reason


async def test_a_field_of_the_persons_contact_is_no_external_id(stub, persons):
    values = {**ACCOUNT, "external_id": "SMS_Key__pc"}
    async with connected(stub, columns=COLUMNS, **values) as (_, sink):
        (problem,) = await sink.check()
        (outcome,) = await sink.send_batch([of_person(1, persons)])
    assert "SMS_Key__pc is a field of the person's contact" in problem
    assert "Field Name SMS_Key," in problem
    assert isinstance(outcome, relay.Pause)


async def test_check_names_the_phone_field_of_persons(stub, persons):
    async with connected(stub, columns=COLUMNS, object="Account", match=["key", "phone"]) as (
        _,
        sink,
    ):
        assert [each.partition(";")[0] for each in await sink.check()] == [
            "phone_fields: Account has no field MobilePhone (is it PersonMobilePhone?)"
        ]


# the contact of a person account


async def test_the_contact_of_a_person_account_is_found_and_written(stub, persons):
    seeded(stub, persons, PersonMobilePhone=NUMBER)
    async with connected(stub, **PEOPLE, **LEAD, consent={"field": "SMS_Opt_Out__c"}) as (_, sink):
        with_word = dataclasses.replace(delivery(1, {"Title": "Mayor"}), last_word="opt_out")
        assert delivered(await sink.send_batch([with_word])) == [True]
    (person,) = stub.records("Account")
    (contact,) = stub.records("Contact")
    assert (contact["SMS_Key__c"], contact["LastName"]) == (key(1), "Last1")
    assert (person["LastName"], person["PersonTitle"], person["SMS_Opt_Out__pc"]) == (
        "Last1",
        "Mayor",
        True,
    )
    assert stub.records("Lead") == []


async def test_a_lead_that_has_become_a_person_account_leads_to_it(stub, persons):
    async with connected(stub, **PEOPLE, **LEAD) as (_, sink):
        await sink.send_batch([delivery(1)])
        (lead,) = stub.records("Lead")
        person = seeded(stub, persons)
        contact = stub.org.row("Account", person)["PersonContactId"]
        stub.convert(lead["Id"], contact)
        await sink.send_batch([delivery(1)])
        assert delivered(await sink.send_batch([delivery(1, attempt=2)])) == [True]
    assert stub.org.row("Account", person)["LastName"] == "Last1"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("AccountId", (relay.Pause, "bad field names on insert/update call: AccountId")),
        ("RecordTypeId", (relay.Reject, "INSUFFICIENT_ACCESS_OR_READONLY")),
    ],
)
async def test_what_only_the_account_may_say_is_told_in_the_vendors_words(
    stub, persons, name, expected
):
    seeded(stub, persons, PersonMobilePhone=NUMBER)
    value = stub.seed("Account", {"Name": "Acme"}) if name == "AccountId" else persons.person
    async with connected(stub, **PEOPLE, **LEAD) as (_, sink):
        (outcome,) = await sink.send_batch([delivery(1, {name: value})])
    assert isinstance(outcome, expected[0])
    assert expected[1] in outcome.reason
    assert stub.records("Contact")[0]["LastName"] == "Doe"
