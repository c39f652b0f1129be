"""The vendor's six example callbacks as both CRMs should have them."""

from typing import Any

from crmvendors import HubSpot, Salesforce, Vendor

KEYWORD, TEXT = "{{ data.keyword }}", "{{ data.message or data.label }}"
TOLD = [
    ("com.sumotext.web_form", "SOMEKEY", None),
    ("com.sumotext.poll", "FB1", "Tampa"),
    ("com.sumotext.poll", "FB1", "Tampa"),
    ("com.sumotext.text_4_info", "keyword", "ServerMsg"),
    ("com.sumotext.web_form", "SOMEKEYWORD", "MOBILEUSERSMESSAGE"),
    ("com.sumotext.message", "SUMOX", "have a nice day"),
]
"""Type, keyword and text of each."""


class Examples:
    """A sink as its README has it. All six are of one person, the `contact`."""

    map: dict[str, Any]
    options: dict[str, Any]
    contact: dict[str, Any]
    keyword: str

    def __init__(self, vendor: Vendor) -> None:
        self._stub = vendor.stub

    def contacts(self) -> list[dict[str, Any]]:
        """Without what the vendor writes itself."""
        raise NotImplementedError

    def activities(self) -> dict[str, tuple[str, str, str | None]]:
        """As in TOLD, by the event's id; each has to point to a contact."""
        raise NotImplementedError

    def everything(self) -> list[Any]:
        return [self.contacts(), self.activities()]


class OfSalesforce(Examples):
    map = {  # noqa: RUF012  nobody changes it
        "FirstName": "{{ data.fields.Name | first_name }}",
        "LastName": "{{ data.fields.Name | last_name }}",
        "MobilePhone": "{{ data.mobile }}",
        "MailingPostalCode": "{{ data.fields.Zip }}",
        "Birthdate": "{{ data.fields.DOB | date('%m/%d/%Y', '%Y-%m-%d') }}",
        "LeadSource": "SMS",
        "SMS_Keyword__c": KEYWORD,
        "SMS_Opt_Out__c": "{{ opted_out }}",
    }
    options = {  # noqa: RUF012
        "match": ["key", "phone"],
        "defaults": {"LastName": "Unknown"},
        "only_if_empty": ["LeadSource"],
        "activity": {
            "object": "SMS_Event__c",
            "external_id": "Event_Id__c",
            "contact": "Contact__r",
            "map": {
                "Type__c": "{{ type }}",
                "Keyword__c": KEYWORD,
                "Message__c": TEXT,
                "Received_At__c": "{{ time }}",
            },
        },
    }
    keyword = "SMS_Keyword__c"
    contact = {  # noqa: RUF012
        "SMS_Key__c": "12125551212",
        "FirstName": "Mary",
        "LastName": "Jane",
        "MobilePhone": "+12125551212",
        "MailingPostalCode": "10054",
        "Birthdate": "2000-01-01",
        "LeadSource": "SMS",
        "SMS_Keyword__c": "SUMOX",
        "SMS_Opt_Out__c": False,
    }

    def contacts(self) -> list[dict[str, Any]]:
        names = {*self.map, "SMS_Key__c"}
        rows = self._stub.records("Contact")
        return [{name: value for name, value in row.items() if name in names} for row in rows]

    def activities(self) -> dict[str, tuple[str, str, str | None]]:
        ids = {row["Id"] for row in self._stub.records("Contact")}
        rows = self._stub.records("SMS_Event__c")
        assert {row["Contact__c"] for row in rows} <= ids
        return {
            row["Event_Id__c"]: (row["Type__c"], row["Keyword__c"], row.get("Message__c"))
            for row in rows
        }


class OfHubSpot(Examples):
    map = {  # noqa: RUF012
        "firstname": "{{ data.fields.Name | first_name }}",
        "lastname": "{{ data.fields.Name | last_name }}",
        "mobilephone": "{{ data.mobile }}",
        "zip": "{{ data.fields.Zip }}",
        "date_of_birth": "{{ data.fields.DOB | date('%m/%d/%Y', '%Y-%m-%d') }}",
        "lifecyclestage": "lead",
        "sms_keyword": KEYWORD,
        "sms_opt_out": "{{ opted_out }}",
    }
    options = {  # noqa: RUF012
        "match": ["key", "phone"],
        "defaults": {"firstname": "Unknown"},
        "only_if_empty": ["lifecyclestage"],
        "activity": {
            "object": {
                "type": "2-123",
                "id_property": "event_id",
                "association": 17,
                "map": {
                    "event_type": "{{ type }}",
                    "keyword": KEYWORD,
                    "message": TEXT,
                    "occurred_at": "{{ time }}",
                },
            }
        },
    }
    keyword = "sms_keyword"
    contact = {  # noqa: RUF012
        "sms_key": "12125551212",
        "firstname": "Mary",
        "lastname": "Jane",
        "mobilephone": "+12125551212",
        "zip": "10054",
        "date_of_birth": "2000-01-01",
        "lifecyclestage": "lead",
        "sms_keyword": "SUMOX",
        "sms_opt_out": "false",
    }

    def contacts(self) -> list[dict[str, Any]]:
        rows = self._stub.records("contacts")
        return [{name: value for name, value in row.items() if name != "id"} for row in rows]

    def activities(self) -> dict[str, tuple[str, str, str | None]]:
        ids = {row["id"] for row in self._stub.records("contacts")}
        links = {link["from"]: link["to"] for link in self._stub.records("associations")}
        rows = self._stub.records("2-123")
        assert {links[row["id"]] for row in rows} <= ids
        return {
            row["event_id"]: (row["event_type"], row["keyword"], row.get("message")) for row in rows
        }


def examples(vendor: Vendor) -> Examples:
    return {Salesforce: OfSalesforce, HubSpot: OfHubSpot}[type(vendor)](vendor)
