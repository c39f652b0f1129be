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
    """The user that the app signs in as."""
    key: PrivateKey
    """The private key (PEM) of the app's certificate."""
    audience: str | None = None
    """The login host for the token. Default: that of production, or of sandboxes for a sandbox."""


class Campaign(relay.Options):
    """The campaign that each person becomes a member of, and the status there.

    Both are templates. An event for which `id` is blank has no campaign.
    """

    id: Template
    """The id of the campaign, as a template. Blank: no campaign for this event."""
    status: Template | None = None
    """The status of the member, as a template."""

    @pydantic.field_validator("id")
    @classmethod
    def _is_an_id(cls, template: Template) -> Template:
        if "{" not in template.text and not re.fullmatch(RECORD_ID, template.text):
            raise ValueError("should be the id of a campaign, as in 701Hs0000000001")
        return template


class RepairOptions(relay.Options):
    """What is done for a record that Salesforce refuses, or a value that a filter does."""

    on_invalid: OnInvalid = "drop"
    """What happens to a value that Salesforce or a filter refuses. `drop` leaves it out, `truncate`
    also cuts long text, `dead` gives the delivery up."""
    defaults: dict[Name, Any] = pydantic.Field(default={})
    """Values for required fields that a record lacks, as in `{LastName: Unknown}`."""


class ActivityOptions(RepairOptions):
    """A second record for each event: a Task of the person, or an object that points to it.

    A Task needs no more than its name: `map` replaces fields of what it has by itself, and
    `on_invalid` is truncate. Any other object needs `external_id`, `contact` and `map`. `contact`
    is the name of its relationship to the person, or one for each object of the sink.
    """

    object: Name
    """`Task`, or an object of your own."""
    external_id: Name = "SMS_Event_Id__c"
    """The unique external id field that holds the event's id."""
    contact: Name | dict[Kind, Name] | None = None
    """The relationship to the person, as in `Contact__r`. With two objects: one for each."""
    map: RecordMap = pydantic.Field(default={}, validate_default=True)
    """The fields of the record, as names with templates. A `Task` has its own defaults."""

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
    """Whether this is the name of the Task object, in any case."""
    return isinstance(name, str) and name.casefold() == TASK.casefold()


class Options(RepairOptions):
    """The options of a `salesforce` sink; see the plugin's own text."""

    login_url: VendorUrl
    """Your My Domain, as in `https://acme.my.salesforce.com`."""
    client_id: Annotated[str, pydantic.Field(min_length=1), AS_PASSWORD]
    """The consumer key of the app."""
    client_secret: Key | None = None
    """The consumer secret, for the client credentials flow."""
    jwt: Jwt | None = None
    """The JWT bearer flow, in place of `client_secret`."""
    api_version: str = pydantic.Field(default="v66.0", pattern=r"^v[1-9][0-9]{1,2}\.0$")
    """The version of Salesforce's API."""
    object: Kind = "Contact"
    """The object of a person's record: `Contact`, `Lead` or another."""
    objects: list[Kind] | None = None
    """`[Contact, Lead]`, in place of `object`: a person is found in both and created in the last.
    """
    external_id: Name = "SMS_Key__c"
    """The unique external id field that identifies a person's record."""
    key: Template = written("{{ data.mobile | digits }}")
    """The value of `external_id`, as a template. `{{ id }}` makes one record for each event."""
    match: list[Literal["key", "phone"]] = pydantic.Field(default=["key"])
    """How a person's record is found: by `key`, then by `phone` if it is listed."""
    phone_fields: list[Name] = pydantic.Field(default=["MobilePhone", "Phone"])
    """The fields in which numbers are looked for."""
    overwrite_phones: bool = False
    """`true` lets `map` overwrite the phone numbers of a person found by phone."""
    country: Country = "US"
    """The default country for numbers in Salesforce without one."""
    duplicates: Literal["fail", "allow_save", "use_match"] = "fail"
    """What happens when a duplicate rule objects. `fail` gives the delivery up, `allow_save` saves
    it, `use_match` updates the record that the rule found."""
    assignment_rules: bool = False
    """Whether Salesforce's assignment rules run."""
    only_if_empty: list[Name] = pydantic.Field(default=[])
    """Fields that are filled and never overwritten."""
    campaign: Campaign | None = None
    """A campaign that each person becomes a member of. Default: none."""
    test_events: Literal["skip", "send"] = "skip"
    """Whether events of `relay send` go to Salesforce."""
    quota: QuotaShare = QuotaShare()
    """How much of the org's daily calls this relay uses."""
    activity: ActivityOptions | None = None
    """A second record for each event. Default: none."""
    consent: Consent | None = None
    """Where opt-outs and opt-ins are written. Default: nowhere."""

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
        """The org that counts the calls: its My Domain, or the user of a shared login URL."""
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
