"""The objects of the Salesforce stub and their fields, as `describe` tells them."""

from dataclasses import dataclass
from typing import Any

SYSTEM = ("Id", "CreatedDate", "LastModifiedDate", "SystemModstamp")
TASK_STATUSES = (
    "Not Started",
    "In Progress",
    "Completed",
    "Waiting on someone else",
    "Deferred",
)
SOURCES = ("Web", "Phone Inquiry", "Partner Referral", "Purchased List", "Other")


@dataclass(frozen=True)
class Field:
    """A column, as `describe` tells it.

    `options` are a picklist's values, refused otherwise where it is `restricted`; `refers` is the
    object that a reference leads to, and `relationship` the name under which a parent is given
    by its external id. A reference may lead to one of several objects (`or_refers`), and no
    external id names its parent then. `default` is what a new record has, where it says nothing;
    what is `fixed` cannot be said again.
    """

    type: str = "string"
    length: int = 255
    required: bool = False
    unique: bool = False
    external_id: bool = False
    writable: bool = True
    options: tuple[str, ...] | None = None
    restricted: bool = True
    label: str = ""
    refers: str = ""
    relationship: str = ""
    or_refers: tuple[str, ...] = ()
    case_sensitive: bool = False
    default: Any = None
    fixed: bool = False

    @property
    def parents(self) -> tuple[str, ...]:
        """The objects that a reference may lead to."""
        return (self.refers, *self.or_refers) if self.refers else ()


def _text(length: int = 255, **more: Any) -> Field:
    return Field(length=length, **more)


def _phones() -> dict[str, Field]:
    return {name: Field("phone", 40) for name in ("Phone", "MobilePhone")}


def _person() -> dict[str, Field]:
    """What a contact and a lead have in common, with what an administrator made for the relay."""
    return _phones() | {
        "FirstName": _text(40, label="First Name"),
        "LastName": _text(80, required=True, label="Last Name"),
        "Name": _text(121, writable=False, label="Full Name"),
        "Email": Field("email", 80),
        "Title": _text(128),
        "LeadSource": Field("picklist", options=SOURCES, restricted=False, label="Lead Source"),
        "Description": Field("textarea", 32000),
        "DoNotCall": Field("boolean", label="Do Not Call"),
        "HasOptedOutOfEmail": Field("boolean", label="Email Opt Out"),
        "SMS_Key__c": _text(40, unique=True, external_id=True, label="SMS Key"),
        "SMS_Opt_Out__c": Field("boolean", label="SMS Opt Out"),
        "SMS_Keyword__c": _text(40, label="SMS Keyword"),
        "SMS_Status__c": Field("picklist", options=("Active", "Stopped"), label="SMS Status"),
        "SMS_Score__c": Field("double", label="SMS Score"),
        "SMS_Count__c": Field("int", label="SMS Count"),
        "SMS_Topics__c": Field("multipicklist", options=("Golf", "Chess"), label="SMS Topics"),
        "Last_SMS_At__c": Field("datetime", label="Last SMS At"),
        "Legacy_Id__c": _text(40, external_id=True, label="Legacy Id"),
        "Loyalty_Number__c": _text(40, unique=True, label="Loyalty Number"),
    }


def _task() -> dict[str, Field]:
    """A task, with the field that an administrator made on Activity ("Task", object reference)."""
    return {
        "WhoId": Field(
            "reference",
            18,
            refers="Contact",
            or_refers=("Lead",),
            relationship="Who",
            label="Contact/Lead ID",
        ),
        "WhatId": Field(
            "reference", 18, refers="Campaign", relationship="What", label="Related To ID"
        ),
        "Subject": _text(255),
        "Status": Field(
            "picklist", 40, True, options=TASK_STATUSES, restricted=False, default="Not Started"
        ),
        "Priority": Field(
            "picklist", 40, True, options=("High", "Normal", "Low"), restricted=False,
            default="Normal",
        ),
        "ActivityDate": Field("date", label="Due Date Only"),
        "Description": Field("textarea", 32000),
        "TaskSubtype": Field(
            "picklist", 40, options=("Task", "Email", "Call"), default="Task", fixed=True
        ),
        "IsClosed": Field("boolean", writable=False, label="Closed"),
        "SMS_Event_Id__c": _text(40, unique=True, external_id=True, label="SMS Event Id"),
    }  # fmt: skip


def schema() -> dict[str, dict[str, Field]]:
    """The objects of a fresh org. Lengths: Salesforce object reference."""
    return {
        "Contact": _person()
        | {name: Field("phone", 40) for name in ("HomePhone", "OtherPhone")}
        | {
            "Birthdate": Field("date"),
            "MailingStreet": Field("textarea", 255, label="Mailing Street"),
            "MailingCity": _text(40, label="Mailing City"),
            "MailingState": _text(80, label="Mailing State/Province"),
            "MailingPostalCode": _text(20, label="Mailing Zip/Postal Code"),
            "MailingCountry": _text(80, label="Mailing Country"),
        },
        "Lead": _person()
        | {
            "Company": _text(255, required=True),
            "IsConverted": Field("boolean", writable=False, label="Converted"),
            "ConvertedContactId": Field("reference", 18, writable=False, refers="Contact"),
            "Status": Field("picklist", options=("Open", "Working", "Closed"), restricted=False),
            "Street": Field("textarea", 255),
            "City": _text(40),
            "State": _text(80, label="State/Province"),
            "PostalCode": _text(20, label="Zip/Postal Code"),
            "Country": _text(80),
        },
        "Account": {
            "Name": _text(255, required=True, label="Account Name"),
            "Phone": Field("phone", 40),
            "SMS_Key__c": _text(40, unique=True, external_id=True, label="SMS Key"),
        },
        "RecordType": {"Name": _text(80), "SobjectType": _text(40)},
        "Campaign": {"Name": _text(80, required=True)},
        "CampaignMember": {
            "CampaignId": Field(
                "reference", 18, True, refers="Campaign", relationship="Campaign", label="Campaign"
            ),
            "ContactId": Field("reference", 18, refers="Contact", relationship="Contact"),
            "LeadId": Field("reference", 18, refers="Lead", relationship="Lead"),
            "Status": Field("picklist", 40, options=("Sent", "Responded"), restricted=False),
        },
        "Task": _task(),
        "CampaignMemberStatus": {
            "CampaignId": Field(
                "reference", 18, True, refers="Campaign", relationship="Campaign", label="Campaign"
            ),
            "Label": _text(765, required=True),
        },
        "SMS_Event__c": {
            "Name": _text(80),
            "Event_Id__c": _text(64, required=True, unique=True, external_id=True),
            "Contact__c": Field("reference", 18, refers="Contact", relationship="Contact__r"),
            "Lead__c": Field("reference", 18, refers="Lead", relationship="Lead__r"),
            "Kind__c": _text(80, label="Kind"),
            "Type__c": _text(80, label="Type"),
            "Message__c": Field("textarea", 32768, label="Message"),
            "Keyword__c": _text(40, label="Keyword"),
            "Mobile__c": Field("phone", 40, label="Mobile"),
            "Received_At__c": Field("datetime", label="Received At"),
        },
        "SMS_Vote__c": {
            "Name": _text(80),
            "Event_Id__c": _text(64, required=True, unique=True, external_id=True),
            "Reply__c": _text(80, label="Reply"),
            "Label__c": _text(80, label="Label"),
            "Keyword__c": _text(40, label="Keyword"),
            "Mobile__c": Field("phone", 40, label="Mobile"),
            "Received_At__c": Field("datetime", label="Received At"),
        },
    }


PREFIXES = {
    "Account": "001",
    "Contact": "003",
    "Lead": "00Q",
    "RecordType": "012",
    "Campaign": "701",
    "CampaignMember": "00v",
    "Task": "00T",
}
