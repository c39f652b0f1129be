"""The options of a `hubspot` sink; what they do stands in the package's own docstring."""

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
    """An id may stand in relay.yaml as a number."""
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
    client_secret: Key
    refresh_token: Key


class CustomEvent(relay.Options):
    """An occurrence of a custom event; `name` is its full name, as in pe123_sms."""

    name: Annotated[str, Field(pattern=EVENT)]
    map: RecordMap


class CustomObject(relay.Options):
    """A record of a custom object; `type` as in 2-123, `association` its type to the contact."""

    type: Kind
    id_property: PropertyName = "event_id"
    association: Annotated[int, Field(ge=1), NUMBER]
    category: Literal["USER_DEFINED", "HUBSPOT_DEFINED", "INTEGRATOR_DEFINED"] = "USER_DEFINED"
    map: RecordMap


class Communication(relay.Options):
    """An entry of HubSpot's own log of text messages.

    HubSpot has `id_property` only where somebody has made it. An account without it does no harm
    where relay.yaml leaves the option out.
    """

    body: Template
    id_property: PropertyName | None = "sms_event_id"

    @property
    def requires_property(self) -> bool:
        """Whether relay.yaml names the property, so that it has to be there."""
        return "id_property" in self.model_fields_set


class ActivityOptions(relay.Options):
    """What stands on the timeline for each event."""

    event: CustomEvent | None = None
    object: CustomObject | None = None
    communication: Communication | None = None
    on_invalid: OnInvalid = "drop"
    defaults: Defaults = Field(default_factory=dict)

    @pydantic.model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if [self.event, self.object, self.communication].count(None) != 2:
            raise ValueError("should have one of event, object and communication")
        return self


class Options(relay.Options):
    """The options of a `hubspot` sink."""

    base_url: VendorUrl = "https://api.hubapi.com"
    token: Token | None = None
    oauth: OAuth | None = None
    api_version: Annotated[str, Field(pattern=VERSION)] = "2026-09"
    object: Kind = "contacts"
    id_property: PropertyName = "sms_key"
    key: Template = Field(default=KEY, validate_default=True)
    match: list[Literal["key", "phone", "email"]] = Field(default=["key"])
    country: Country = "US"
    on_invalid: OnInvalid = "drop"
    on_conflict: OnConflict | None = None
    unknown_property: Literal["pause", "drop"] = "pause"
    defaults: Defaults = Field(default_factory=dict)
    only_if_empty: list[PropertyName] = Field(default_factory=list)
    overwrite_phones: bool = False
    lists: list[ListId] = Field(default_factory=list)
    test_events: Literal["skip", "send"] = "skip"
    quota: QuotaShare = QuotaShare()
    activity: ActivityOptions | None = None
    consent: Consent | None = None

    def account(self) -> tuple[str, ...]:
        """Whose limits count: the sinks that have this alike share them, and a sign-in."""
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
