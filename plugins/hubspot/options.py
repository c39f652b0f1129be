"""The options of a `hubspot` sink; the docstring of the package describes them."""

import re
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field

import relay
from relay import AS_KEY, NUMBER, Country, Key, Login, RecordMap, Template, VendorUrl
from relay.crm import Consent, QuotaShare

from .records import text

KEY = "{{ data.mobile | digits }}"
COMMUNICATIONS = "communications"
CONTACTS = frozenset({"contacts", "contact", "0-1"})
EVENT = r"^[A-Za-z0-9_.-]+$"
PROPERTY = r"^[A-Za-z0-9_-]+$"
LIST_ID = r"[0-9]{1,15}"
VERSION = r"^(v3|20\d\d-(03|09))$"

OnInvalid = Literal["dead", "drop", "truncate"]
OnConflict = Literal["separate", "adopt", "dead"]
PropertyName = Annotated[str, Field(pattern=PROPERTY)]
Kind = Annotated[str, Field(pattern=PROPERTY)]


def _token(secret: pydantic.SecretStr) -> pydantic.SecretStr:
    value = secret.get_secret_value()
    if not value or not all(0x21 <= ord(letter) <= 0x7E for letter in value):
        raise ValueError("should be a key without spaces")
    return secret


def _as_text(defaults: Any) -> Any:
    if not isinstance(defaults, dict):
        return defaults
    return {name: text(value) for name, value in defaults.items()}


def _digits(value: Any) -> Any:
    """An id may be a number in relay.yaml."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _list_id(template: Template) -> Template:
    if "{" not in template.text and not re.fullmatch(LIST_ID, template.text.strip()):
        raise ValueError("should be the ILS list ID of a list, as in 17")
    return template


ListId = Annotated[
    Template,
    pydantic.BeforeValidator(_digits),
    pydantic.AfterValidator(_list_id),
    pydantic.WithJsonSchema({"type": ["string", "integer"]}),
]
Defaults = Annotated[dict[PropertyName, str], pydantic.BeforeValidator(_as_text)]
Token = Annotated[pydantic.SecretStr, pydantic.AfterValidator(_token), AS_KEY]


class OAuth(relay.Options):
    """An app of its own, connected to the account."""

    client_id: Login
    """The client id of the app."""
    client_secret: Key
    """The client secret of the app."""
    refresh_token: Key
    """The first refresh token. The store keeps each newer one."""


class CustomEvent(relay.Options):
    """An occurrence of a custom event; `name` is its full name, as in pe123_sms."""

    name: Annotated[str, Field(pattern=EVENT)]
    """The full name of the event, as in `pe123_sms`."""
    map: RecordMap
    """The properties of the event, as names with templates."""


class CustomObject(relay.Options):
    """A record of a custom object; `type` as in 2-123, `association` its type to the contact."""

    type: Kind
    """The object type, as in `2-123`."""
    id_property: PropertyName = "event_id"
    """The unique property that holds the event's id."""
    association: Annotated[int, Field(ge=1), NUMBER]
    """The number of the association with contacts."""
    category: Literal["USER_DEFINED", "HUBSPOT_DEFINED", "INTEGRATOR_DEFINED"] = "USER_DEFINED"
    """Who defined the association."""
    map: RecordMap
    """The properties of the record, as names with templates."""


class Communication(relay.Options):
    """An entry of HubSpot's own log of text messages.

    HubSpot has `id_property` only where somebody has made it. An account without it does no harm
    where relay.yaml leaves the option out.
    """

    body: Template
    """The text of the entry, as a template."""
    id_property: PropertyName | None = "sms_event_id"
    """The unique property that holds the event's id. It prevents a second entry."""

    @property
    def requires_property(self) -> bool:
        """Whether relay.yaml names the property, so that it has to be there."""
        return "id_property" in self.model_fields_set


class ActivityOptions(relay.Options):
    """What stands on the timeline for each event."""

    event: CustomEvent | None = None
    """A custom event."""
    object: CustomObject | None = None
    """A record of a custom object."""
    communication: Communication | None = None
    """An entry in HubSpot's log of text messages."""
    on_invalid: OnInvalid = "drop"
    """What happens to a value that HubSpot refuses in the activity."""
    defaults: Defaults = Field(default_factory=dict)
    """Values for required properties that the activity lacks."""

    @pydantic.model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if [self.event, self.object, self.communication].count(None) != 2:
            raise ValueError("should have one of event, object and communication")
        return self


class Options(relay.Options):
    """The options of a `hubspot` sink."""

    base_url: VendorUrl = "https://api.hubapi.com"
    """The address of HubSpot's API."""
    token: Token | None = None
    """A service key, or the token of a private app."""
    oauth: OAuth | None = None
    """An OAuth app, in place of `token`."""
    api_version: Annotated[str, Field(pattern=VERSION)] = "2026-09"
    """The version of HubSpot's API: `v3`, or a date such as `2026-09`."""
    object: Kind = "contacts"
    """The object type: `contacts`, or one of your own such as `2-123`."""
    id_property: PropertyName = "sms_key"
    """The unique property that identifies a person's record."""
    key: Template = Field(default=KEY, validate_default=True)
    """The value of `id_property`, as a template. `{{ id }}` makes one record for each event."""
    match: list[Literal["key", "phone", "email"]] = Field(default=["key"])
    """How a person's record is found: by `key`, then by `phone` and `email` where they are listed.
    """
    country: Country = "US"
    """The default country for numbers in HubSpot without one."""
    on_invalid: OnInvalid = "drop"
    """What happens to a value that HubSpot or a filter refuses. `drop` leaves it out, `truncate`
    also cuts long text, `dead` gives the delivery up."""
    on_conflict: OnConflict | None = None
    """What happens when another contact has the same email address. `separate` leaves the address
    out, `adopt` takes that contact, `dead` gives the delivery up. Default: `adopt` if `match` has
    `email`, else `separate`."""
    unknown_property: Literal["pause", "drop"] = "pause"
    """What happens when HubSpot lacks a property. `pause` pauses the sink, `drop` leaves the
    property out."""
    defaults: Defaults = Field(default_factory=dict)
    """Values for required properties that a new record lacks, as in `{firstname: Unknown}`."""
    only_if_empty: list[PropertyName] = Field(default_factory=list)
    """Properties that are filled and never overwritten."""
    overwrite_phones: bool = False
    """`true` lets `map` overwrite the phone numbers of a person found by phone."""
    lists: list[ListId] = Field(default_factory=list)
    """Static lists that each contact is added to, by ILS list ID. Each may be a template."""
    test_events: Literal["skip", "send"] = "skip"
    """Whether events of `relay send` go to HubSpot."""
    quota: QuotaShare = QuotaShare()
    """How much of the account's daily calls this relay uses."""
    activity: ActivityOptions | None = None
    """A timeline entry for each event. Default: none."""
    consent: Consent | None = None
    """Where opt-outs and opt-ins are written. Default: nowhere."""

    def account(self) -> tuple[str, ...]:
        """The account: sinks with the same one share its limits and a sign-in."""
        if self.oauth is None:
            assert self.token is not None
            return ("hubspot", self.base_url, self.token.get_secret_value())
        granted = self.oauth.refresh_token.get_secret_value()
        return ("hubspot", self.base_url, self.oauth.client_id, granted)

    @property
    def conflict(self) -> OnConflict:
        """What `on_conflict` says; else those who match by e-mail address adopt by it, too."""
        return self.on_conflict or ("adopt" if "email" in self.match else "separate")

    @property
    def is_of_contacts(self) -> bool:
        """Whether records are contacts, with the properties that HubSpot gives them."""
        return self.object in CONTACTS

    @property
    def finds_numbers(self) -> bool:
        """Whether records are looked for by phone number, for their key or for consent."""
        return "phone" in self.match or (self.consent is not None and self.is_of_contacts)

    @pydantic.field_validator("match")
    @classmethod
    def _key_first(cls, match: list[str]) -> list[str]:
        if match[:1] != ["key"] or len(set(match)) != len(match):
            raise ValueError("should begin with key, and name each once")
        return match

    @pydantic.field_validator("id_property")
    @classmethod
    def _not_hubspots_own(cls, name: str) -> str:
        if name in {"hs_object_id", "email"}:
            raise ValueError("should be a property of your own: HubSpot cannot upsert by this one")
        return name

    @pydantic.model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if (self.token is None) == (self.oauth is None):
            raise ValueError("should have either token or oauth")
        return self
