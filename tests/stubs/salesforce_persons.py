"""Person accounts in the Salesforce stub: an account and a contact that are one person.

SOAP API guide, "Person Account Record Types"; Salesforce Help 000386207 and 005305352; texts that
users of the API have recorded. An account with the record type of persons has a contact, which has
the same values; what is written to one stands in the other. A custom field of contacts is there on
accounts as `…__pc`, and is no key to upsert by.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stubs.salesforce_mistakes import Mistake, Refused
from stubs.salesforce_schema import Field

if TYPE_CHECKING:
    from stubs.salesforce_org import Org

NAMES = ("FirstName", "LastName")
STANDARD = ("MobilePhone", "HomePhone", "Email", "Title", "Birthdate", "MailingPostalCode")


class Persons:
    """The rules of an org with person accounts.

    `person` and `business` are the ids of the record types; `default` is that of the user.
    """

    def __init__(self, org: "Org") -> None:
        self._org = org
        contact, account = org.fields["Contact"], org.fields["Account"]
        self._mirrored = {name: name for name in NAMES}
        self._mirrored |= {f"Person{name}": name for name in STANDARD}
        self._mirrored |= {f"{n.removesuffix('c')}pc": n for n in contact if n.endswith("__c")}
        for said, name in self._mirrored.items():
            account[said] = replace(contact[name], required=False, unique=False)
        kind = Field("reference", 18, refers="RecordType", label="Record Type ID")
        made = Field("boolean", writable=False, label="Is Person Account")
        account |= {"RecordTypeId": kind, "IsPersonAccount": made}
        account["PersonContactId"] = Field("reference", 18, refers="Contact", writable=False)
        contact |= {"RecordTypeId": kind, "IsPersonAccount": made}
        contact["AccountId"] = Field("reference", 18, refers="Account", relationship="Account")
        self.person, self.business = (
            org.insert("RecordType", {"Name": f"{name} Account", "SobjectType": "Account"})
            for name in ("Person", "Business")
        )
        self.default = self.business

    def is_person(self, kind: str, values: Mapping[str, Any]) -> bool:
        """Whether a new account becomes a person."""
        return kind == "Account" and values.get("RecordTypeId", self.default) == self.person

    def check(self, kind: str, changes: Mapping[str, Any], this: Mapping[str, Any] | None) -> None:
        """Raises Refused."""
        is_person = this["IsPersonAccount"] if this else self.is_person(kind, changes)
        if kind == "Account":
            _refuse_names(changes, {"Name"} if is_person else self._mirrored)
        elif kind == "Contact" and is_person:
            _refuse_names(changes, {"AccountId"})
            if "RecordTypeId" in changes:
                text = "insufficient access rights on object id"
                raise Refused(Mistake("INSUFFICIENT_ACCESS_OR_READONLY", text))

    def mirror(self, kind: str, row: dict[str, Any], changes: Mapping[str, Any]) -> None:
        """Have the other one of the two say the same; a new person gets its contact."""
        if kind == "Account" and self.is_person(kind, row):
            values = {n: changes[said] for said, n in self._mirrored.items() if said in changes}
            if contact := row.get("PersonContactId"):
                self._org.put("Contact", self._org.row("Contact", contact), values)
            else:
                person = {"AccountId": row["Id"], "IsPersonAccount": True}
                row["PersonContactId"] = self._org.made("Contact", values | person)["Id"]
                row["IsPersonAccount"] = True
        elif kind == "Contact" and row.get("IsPersonAccount"):
            values = {said: changes[n] for said, n in self._mirrored.items() if n in changes}
            self._org.put("Account", self._org.row("Account", row["AccountId"]), values)


def _refuse_names(changes: Mapping[str, Any], names: Iterable[str]) -> None:
    if bad := sorted(set(changes) & set(names)):
        text = f"Account: bad field names on insert/update call: {', '.join(bad)}"
        raise Refused(Mistake("INVALID_FIELD_FOR_INSERT_UPDATE", text, tuple(bad)))
