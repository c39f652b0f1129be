"""The options of a `salesforce` sink."""

import re
from typing import Annotated, Any, Literal, Self

import httpx
import pydantic

import relay
from relay import (
    AS_PASSWORD,
    Country,
    Key,
    Login,
    PrivateKey,
    RecordMap,
    Template,
    VendorUrl,
)
from relay.crm import Consent, QuotaShare

NAME = r"^[A-Za-z][A-Za-z0-9_]*$"
SHARED_LOGINS = ("login.salesforce.com", "test.salesforce.com")
RECORD_ID = "[A-Za-z0-9]{15}([A-Za-z0-9]{3})?"
PERSONS = {"Contact": "ContactId", "Lead": "LeadId"}
"""What can be a member of a campaign, and by which field."""
PREFIXES = {"003": "Contact", "00Q": "Lead"}
"""The object of an id, by how it begins ("Standard Object Prefixes")."""
TASK = "Task"
WHO = "WhoId"
"""The person of a Task, a Contact or a Lead, by record id."""
TASK_MAP = {
    "Subject": (
        "SMS {{ type | replace('com.sumotext.', '') | replace('_', ' ') }}"
        "{% if data.keyword %}: {{ data.keyword }}{% endif %}"
        "{% if data.consent %} ({{ data.consent | replace('_', '-') }}){% endif %}"
    ),
    "Status": "Completed",
    "ActivityDate": "{{ time | date('iso', '%Y-%m-%d') }}",
    "Description": (
        "{% for text in (data.message, data.reply, data.label) if text %}{{ text }}\n{% endfor %}"
        "{% for name, value in data.fields | items %}"
        "{{ name }}: {{ value if value is string else value | join(', ') }}\n{% endfor %}"
    ),
}
"""What a Task holds where `activity.map` does not say otherwise."""


def written(text: str) -> Any:
    """A default as relay.yaml would write it."""
    return pydantic.Field(default=text, validate_default=True)


Name = Annotated[str, pydantic.Field(pattern=NAME)]
"""The API name of an object or field."""


def _as_salesforce_spells(name: str) -> str:
    """Salesforce takes `contact` for Contact; what depends on the object has to find it, too."""
    return next((each for each in PERSONS if each.casefold() == name.casefold()), name)


Kind = Annotated[Name, pydantic.AfterValidator(_as_salesforce_spells)]
"""The name of an object that may be a person's."""
OnInvalid = Literal["dead", "drop", "truncate"]


class Jwt(relay.Options):
    """The JWT bearer flow: `key` is the private key (PEM) to the app's certificate.

    `audience` is Salesforce's login host, or that of its sandboxes, where it is not given.
    """

    username: Login
    key: PrivateKey
    audience: str | None = None


class Campaign(relay.Options):
    """The campaign that each person becomes a member of, and the status there.

    Both are templates. An event for which `id` is blank has no campaign.
    """

    id: Template
    status: Template | None = None

    @pydantic.field_validator("id")
    @classmethod
    def _is_an_id(cls, template: Template) -> Template:
        if "{" not in template.text and not re.fullmatch(RECORD_ID, template.text):
            raise ValueError("should be the id of a campaign, as in 701Hs0000000001")
        return template


class RepairOptions(relay.Options):
    """What is done for a record that Salesforce refuses, or a value that a filter does."""

    on_invalid: OnInvalid = "drop"
    defaults: dict[Name, Any] = pydantic.Field(default={})


class ActivityOptions(RepairOptions):
    """A second record for each event: a Task of the person, or an object that points to it.

    A Task needs no more than its name: `map` replaces fields of what it has by itself, and
    `on_invalid` is truncate. Any other object needs `external_id`, `contact` and `map`. `contact`
    is the name of its relationship to the person, or one for each object of the sink.
    """

    object: Name
    external_id: Name = "SMS_Event_Id__c"
    contact: Name | dict[Kind, Name] | None = None
    map: RecordMap = pydantic.Field(default={}, validate_default=True)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _of_task(cls, given: Any) -> Any:
        if not isinstance(given, dict) or not is_task(given.get("object")):
            return given
        mapped = given.get("map") or {}
        if isinstance(mapped, dict):
            said = {str(name).casefold() for name in mapped}
            usual = {name: v for name, v in TASK_MAP.items() if name.casefold() not in said}
            mapped = usual | mapped
        return {"on_invalid": "truncate"} | given | {"object": TASK, "map": mapped}

    @pydantic.model_validator(mode="after")
    def _complete(self) -> Self:
        needed = ("external_id", "contact", "map")
        left_out = [name for name in needed if name not in self.model_fields_set]
        if left_out and not is_task(self.object):
            raise ValueError(f"needs {', '.join(left_out)} for the object {self.object}")
        return self

    def reference(self, kind: str) -> str:
        """The field that takes the record id of a person of this object.

        A relationship has the name of its field but for the end ("Relationship Names", SOQL
        reference).
        """
        if not isinstance(self.contact, dict):
            return WHO
        relation = self.contact[kind]
        return f"{relation[:-1]}c" if relation.endswith("__r") else f"{relation}Id"


def is_task(name: Any) -> bool:
    """Whether this is the name of the Task object. The case of a name tells nothing."""
    return isinstance(name, str) and name.casefold() == TASK.casefold()


class Options(RepairOptions):
    """The options of a `salesforce` sink; see the plugin's own text."""

    login_url: VendorUrl
    client_id: Annotated[str, pydantic.Field(min_length=1), AS_PASSWORD]
    client_secret: Key | None = None
    jwt: Jwt | None = None
    api_version: str = pydantic.Field(default="v66.0", pattern=r"^v[1-9][0-9]{1,2}\.0$")
    object: Kind = "Contact"
    objects: list[Kind] | None = None
    external_id: Name = "SMS_Key__c"
    key: Template = written("{{ data.mobile | digits }}")
    match: list[Literal["key", "phone"]] = pydantic.Field(default=["key"])
    phone_fields: list[Name] = pydantic.Field(default=["MobilePhone", "Phone"])
    overwrite_phones: bool = False
    country: Country = "US"
    duplicates: Literal["fail", "allow_save", "use_match"] = "fail"
    assignment_rules: bool = False
    only_if_empty: list[Name] = pydantic.Field(default=[])
    campaign: Campaign | None = None
    test_events: Literal["skip", "send"] = "skip"
    quota: QuotaShare = QuotaShare()
    activity: ActivityOptions | None = None
    consent: Consent | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """The objects that a person is looked for in. A new record is made in the last one."""
        return tuple(self.objects or [self.object])

    def login(self) -> tuple[str, ...]:
        """What one sign-in serves: the sinks that have all of this alike share it."""
        app = ("salesforce", self.login_url, self.client_id)
        if self.jwt is not None:
            return (*app, self.jwt.username, self.audience(), self.jwt.key.get_secret_value())
        assert self.client_secret is not None
        return (*app, self.client_secret.get_secret_value())

    def org(self) -> tuple[str, ...]:
        """Whose calls are counted: My Domain's; else all that is known of it is who signs in."""
        if self.jwt and httpx.URL(self.login_url).host in SHARED_LOGINS:
            return ("salesforce org", self.login_url, self.jwt.username)
        return ("salesforce org", self.login_url)

    def consent_phones(self) -> list[str]:
        """Where records have the number of a word of consent.

        An object that is no person may lack the usual fields.
        """
        known = self.kinds[-1] in PERSONS or "phone_fields" in self.model_fields_set
        return self.phone_fields if known else []

    def audience(self) -> str:
        """Whom a JWT is for ("OAuth 2.0 JWT Bearer Flow": the login host, not My Domain)."""
        given = self.jwt.audience if self.jwt else None
        host = httpx.URL(self.login_url).host
        sandbox = host == "test.salesforce.com" or host.endswith(".sandbox.my.salesforce.com")
        return given or f"https://{'test' if sandbox else 'login'}.salesforce.com"

    @pydantic.field_validator("match")
    @classmethod
    def _key_first(cls, match: list[str]) -> list[str]:
        if match not in (["key"], ["key", "phone"]):
            raise ValueError("should be [key] or [key, phone]")
        return match

    @pydantic.field_validator("objects")
    @classmethod
    def _one_or_persons(cls, objects: list[str] | None) -> list[str] | None:
        if objects is not None and len(objects) != 1 and sorted(objects) != sorted(PERSONS):
            raise ValueError("should name one object, or Contact and Lead")
        return objects

    def _names_each(self, contact: str | dict[str, str]) -> bool:
        if isinstance(contact, str):
            return len(self.kinds) == 1
        return len(self.kinds) > 1 and sorted(contact) == sorted(self.kinds)

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.client_secret is None) == (self.jwt is None):
            raise ValueError("should have either client_secret or jwt")
        if self.jwt is None and httpx.URL(self.login_url).host in SHARED_LOGINS:
            raise ValueError(
                "login_url should be your My Domain, https://NAME.my.salesforce.com: a client"
                " secret is not taken elsewhere"
            )
        if self.objects is not None and "object" in self.model_fields_set:
            raise ValueError("should have either object or objects: take object out")
        persons = set(self.kinds) <= set(PERSONS)
        if self.campaign and not persons:
            raise ValueError("campaign needs the object Contact or Lead")
        if self.activity and self.activity.contact and not self._names_each(self.activity.contact):
            raise ValueError(
                "activity.contact should name a relationship to each object, as in {Contact:"
                " Contact__r, Lead: Lead__r}; with one object, the relationship alone"
            )
        if self.activity and not self.activity.contact and not persons:
            raise ValueError("an activity that is a Task needs the object Contact or Lead")
        if "phone" in self.match and not self.phone_fields:
            raise ValueError("phone_fields should name one at least, as match has phone")
        return self
