"""The stub's person accounts: an account and a contact that say the same."""

import pytest
from stubs.salesforce import Refused, SalesforceStub

PERSON = {"LastName": "Doe", "PersonEmail": "a@b.example", "SMS_Keyword__pc": "JOIN"}


@pytest.fixture
def stub():
    return SalesforceStub()


@pytest.fixture
def persons(stub):
    return stub.enable_person_accounts()


def test_a_person_account_has_a_contact_that_says_the_same(stub, persons):
    made = stub.seed("Account", {"RecordTypeId": persons.person, **PERSON})
    (account,), (contact,) = stub.records("Account"), stub.records("Contact")
    assert (account["PersonContactId"], contact["AccountId"]) == (contact["Id"], made)
    assert (contact["Email"], contact["SMS_Keyword__c"]) == ("a@b.example", "JOIN")
    stub.org.update("Contact", stub.org.row("Contact", contact["Id"]), {"Title": "Mayor"})
    assert stub.org.row("Account", made)["PersonTitle"] == "Mayor"


def test_a_company_has_no_contact(stub, persons):
    stub.seed("Account", {"Name": "Acme"})
    assert stub.records("Contact") == []


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"Name": "Acme", "LastName": "Doe"}, "INVALID_FIELD_FOR_INSERT_UPDATE"),
        ({"Name": "Acme", "PersonEmail": "a@b.example"}, "INVALID_FIELD_FOR_INSERT_UPDATE"),
        ({}, "REQUIRED_FIELD_MISSING"),
    ],
)
def test_a_company_takes_nothing_of_a_person(stub, persons, values, code):
    with pytest.raises(Refused, match=code):
        stub.seed("Account", values)


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"LastName": "Doe", "Name": "Doe"}, "INVALID_FIELD_FOR_INSERT_UPDATE"),
        ({"FirstName": "Jane"}, "REQUIRED_FIELD_MISSING"),
    ],
)
def test_a_person_has_the_names_of_one(stub, persons, values, code):
    with pytest.raises(Refused, match=code):
        stub.seed("Account", {"RecordTypeId": persons.person, **values})


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("AccountId", "INVALID_FIELD_FOR_INSERT_UPDATE"),
        ("RecordTypeId", "INSUFFICIENT_ACCESS_OR_READONLY"),
    ],
)
def test_the_contact_of_a_person_does_not_say_what_the_account_does(stub, persons, name, code):
    made = stub.seed("Account", {"RecordTypeId": persons.person, **PERSON})
    (contact,) = stub.records("Contact")
    value = made if name == "AccountId" else persons.person
    with pytest.raises(Refused, match=code):
        stub.org.update("Contact", stub.org.row("Contact", contact["Id"]), {name: value})
