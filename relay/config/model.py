"""Settings of relay.yaml as pydantic models: the keys, their types and their defaults.

The loader and the JSON Schema use them. Defaults are written as relay.yaml would write them.
"""

import ipaddress
import re
import zoneinfo
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field, SecretStr
from pydantic_core import PydanticCustomError

from relay.fsutil import path_from_utf8
from relay.phone import Country
from relay.secret import AS_KEY, Login, Password
from relay.signing import SigningSecret
from relay.state_directory import DEFAULT_STORE
from relay.templating.evaluation import Blank
from relay.units import (
    NUMBER,
    ByteRate,
    Duration,
    HostPort,
    IPNetwork,
    Listen,
    RateLimit,
    Size,
    Term,
    Threshold,
    at_most,
    between,
    counted,
    sized,
)
from relay.urls import SECRET_HEADERS, HttpUrl, check_confidential
from relay.validation import text_type

MAILBOX = re.compile(r"[^\s<>@,;]{1,64}@[^\s<>@,;]{1,255}")
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
DEFAULT_PLUGINS = "plugins"
DEFAULT_SOURCE = "sumotext"
"""The plugin of a source that names none. Its file has this name, too."""
SUMOTEXT_OPTIONS = ("country", "kind", "rename")
"""The options of this plugin that are beside `plugin:`, not under `options:`."""
POSTGRESQL = ("postgresql://", "postgres://")


def _network(text: str) -> IPNetwork:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(
            "should be a network such as 203.0.113.0/24, with no bit set behind its prefix"
        ) from None


def parse_timezone(text: str) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        raise ValueError("should be the name of a time zone such as America/New_York") from None


def _token(text: str) -> SecretStr:
    # An empty one would let everybody in.
    if not text.strip():
        raise ValueError("should be text that is not empty; a number wants quotes")
    return SecretStr(text)


def _store(text: str) -> str:
    if not text or ("://" in text and not text.startswith(POSTGRESQL)):
        raise ValueError("should be the path of a file")
    return text


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise PydanticCustomError(
            "relay_name", "its name should be 1 to 64 letters, digits, _ or -"
        )
    return text


def _file(value: Any, info: pydantic.ValidationInfo) -> Any:
    if not isinstance(value, str) or not info.context:
        return value
    path = Path(info.context["folder"], path_from_utf8(value))
    if info.context["strict"] and not path.is_file():
        raise PydanticCustomError("relay_file", "there is no such file")
    return path


def _mailbox(text: str) -> str:
    if not MAILBOX.fullmatch(text):
        raise ValueError("should be an address such as relay@example.com")
    return text


def _truth_is_text(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


Name = Annotated[str, pydantic.AfterValidator(_name)]
NetworkText = Annotated[IPNetwork, *text_type(_network, "network", {})]
Timezone = Annotated[zoneinfo.ZoneInfo, *text_type(parse_timezone, "timezone", {})]
SourceToken = Annotated[SecretStr, *text_type(_token, "token", {"minLength": 1}), AS_KEY]
StorePlace = Annotated[str, *text_type(_store, "store", {"minLength": 1})]
FilePlace = Annotated[str, Field(min_length=1)]
File = Annotated[Path, pydantic.BeforeValidator(_file, json_schema_input_type=str)]
Expression = Annotated[
    str, pydantic.BeforeValidator(_truth_is_text, json_schema_input_type=str | bool)
]
Positive = Annotated[Duration, Field(gt=0)]
RestTime = Annotated[Positive, between("10ms", "7d")]
"""How long a sink rests, or waits before a retry."""
RetentionTime = Annotated[Term, between("1m", "36500d")]
AlertDelay = Annotated[Term, between("1s", "365d")]
AlertThreshold = Annotated[Threshold, counted("1s", "365d")]
Whole = Annotated[int, Field(ge=1), NUMBER]
HostName = Annotated[
    str,
    pydantic.StringConstraints(max_length=253, pattern="^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$"),
]
Mailbox = Annotated[str, *text_type(_mailbox, "mailbox", {"pattern": f"^{MAILBOX.pattern}$"})]


def written(text: str) -> Any:
    """A default as relay.yaml would write it, so that the JSON Schema shows it that way."""
    return Field(default=text)


class Model(pydantic.BaseModel):
    """A part of relay.yaml. A key with nothing after it counts as left out."""

    model_config = pydantic.ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, validate_default=True
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _without_nothing(cls, value: Any) -> Any:
        if value is None:
            return {}
        if isinstance(value, dict):
            known = {field.alias or name for name, field in cls.model_fields.items()}
            return {
                key: item for key, item in value.items() if item is not None or key not in known
            }
        return value


class Tls(Model):
    """The certificate of the public listener."""

    cert: File
    """A PEM file with the certificate and its chain."""
    key: File
    """A PEM file with the private key of the certificate."""


class Connections(Model):
    """The most connections to the public listener."""

    total: Annotated[Whole, at_most(100_000)] = 1000
    """The most connections at once. Above it, the slowest are closed."""
    each: Annotated[Whole, at_most(100_000)] = 250
    """The most connections from one address, or from one /64 of IPv6."""


class Server(Model):
    """The public listener, which Sumotext calls."""

    listen: Listen = written("127.0.0.1:8080")
    """The address and port for callbacks."""
    tls: Tls | None = None
    """The certificate for https. Without it, the listener speaks plain HTTP."""
    proxies: list[NetworkText] = Field(default=[])
    """Networks of your reverse proxies. Only their `X-Forwarded-For` header is used."""
    connections: Connections = Field(default_factory=Connections)
    """Limits for connections to this listener."""


class Admin(Model):
    """The listener for the operators."""

    listen: Listen = written("127.0.0.1:8081")
    """The address and port for health, metrics and commands. Keep it on this machine."""
    hosts: list[HostName] = Field(default=[])
    """Further host names for this listener. An IP address and `localhost` always work."""


class Limit(Model):
    """The most that a source may send. It stops a program that calls in a loop."""

    rate: Annotated[RateLimit, counted("10ms", "1d")] = written("10000/10s")
    """The most callbacks in a time. The relay answers 429 above it and stores nothing."""
    bytes: Annotated[ByteRate, counted("10ms", "1d")] = written("64MiB/10s")
    """The most bytes of callbacks in a time, after decompression."""


class SourceConfig(Model):
    """A place that callbacks come in at: `/callbacks/NAME`.

    `country`, `kind` and `rename` are options of the plugin `sumotext`.
    """

    plugin: str = DEFAULT_SOURCE
    """The plugin that reads the callbacks."""
    country: Country = written("US")
    """The default country for numbers that are sent without one."""
    kind: Literal["auto", "web_form", "poll", "text_4_info", "message"] = "auto"
    """The kind of every callback to this source. `auto` finds it from the parameters."""
    tokens: list[SourceToken] = Field(default=[])
    """Secrets. A callback needs one of them. List two while you change a token."""
    allow_from: list[NetworkText] = Field(default=[])
    """Networks. A callback must come from one of them."""
    limit: Limit = Field(default_factory=Limit)
    """The most that this source may send."""
    public_url: HttpUrl | None = None
    """The URL that the sender calls, where a proxy changes it: a signature may be over it."""
    rename: dict[str, str] = Field(default={})
    """Other names of parameters, as in `{city: label}`."""
    options: dict[str, Any] = Field(default={})
    """The options of another plugin than sumotext."""


class BatchSettings(Model):
    """How many deliveries go in one request, and how long a delivery waits for others."""

    size: Whole | None = None
    """The most deliveries in one request. Default: the most that the sink can take."""
    wait: Annotated[Duration, between("0s", "1h")] = written("0s")
    """How long a delivery waits for others to join its batch."""


class RetrySettings(Model):
    """How long and how often a failed delivery is tried again."""

    initial: RestTime = written("5s")
    """The longest wait before the first retry. Each later wait may be twice as long."""
    max: RestTime = written("6h")
    """The longest wait between two attempts."""
    attempts: Annotated[Whole, at_most(10_000)] = 14
    """The least number of attempts before a delivery is dead. `window` must be over as well."""
    window: Annotated[Duration, between("0s", "365d")] = written("4d")
    """The least time before a delivery is dead. `attempts` must be used up as well."""

    @pydantic.model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.initial > self.max:
            raise ValueError("initial should not be above max")
        return self


class BreakerSettings(Model):
    """When failures park a sink, and for how long."""

    failures: Annotated[Whole, at_most(10_000)] = 10
    """The number of failures in a row that parks the sink. Each contact counts once."""
    cooldown: RestTime = written("60s")
    """How long the sink stays parked before one delivery is tried."""


class SinkSettings(Model):
    """A place that events are delivered to."""

    plugin: str
    """The kind of the sink: `csv`, `webhook`, `salesforce`, `hubspot` or your own plugin."""
    enabled: bool = True
    """`false` makes no new deliveries and holds those that wait."""
    when: Expression | None = None
    """A Jinja expression that chooses the events. Default: every event."""
    map: dict[str, Any] | None = None
    """The record for the sink, as names with Jinja templates. Default: the event itself."""
    options: dict[str, Any] = Field(default={})
    """The options of the plugin."""
    batch: BatchSettings = Field(default_factory=BatchSettings)
    """How many deliveries go together."""
    concurrency: Annotated[int, Field(ge=1, le=1000), NUMBER] = 4
    """The most requests at once."""
    rate: Annotated[RateLimit, counted("10ms", "1d")] | None = None
    """The most requests in a time. Default: no limit."""
    timeout: Annotated[Positive, between("100ms", "1h")] = written("30s")
    """How long one attempt may take."""
    order: Literal["contact", "none"] = "contact"
    """`contact` delivers the events of one contact in order. `none` keeps no order."""
    retry: RetrySettings = Field(default_factory=RetrySettings)
    """How long and how often a failed delivery is tried again."""
    breaker: BreakerSettings = Field(default_factory=BreakerSettings)
    """When the sink is parked after failures."""
    allow_private: list[NetworkText] = Field(default=[])
    """Private networks that this sink may call. Default: none."""
    blank: Blank | None = None
    """What happens to a blank value: `keep` sends it, `omit` leaves its name out, `clear` sends
    null. Default: `omit` for `salesforce` and `hubspot`, else `keep`."""


class AlertRules(Model):
    """What raises an alert, and after how long. `never` turns a rule off."""

    opt_out_undelivered: AlertDelay = written("10m")
    """The age of an opt-out that a sink does not have yet."""
    backlog_age: AlertDelay = written("1h")
    """The age of the oldest delivery that waits."""
    sink_paused: AlertDelay = written("5m")
    """How long a sink is paused."""
    dead: AlertThreshold = written("1/1h")
    """The number of dead deliveries of one sink in a time."""
    quarantine: AlertThreshold = written("20/1h")
    """The number of callbacks that went to quarantine in a time."""
    keyword_silent: dict[str, Annotated[Positive, between("1s", "365d")]] = Field(default={})
    """Keywords with the time after which their silence raises an alert, as in `{JOIN: 24h}`."""


class AlertWebhook(Model):
    """A webhook that gets the alerts, signed with Standard Webhooks."""

    url: HttpUrl = Field(repr=False)
    """The address of the receiver."""
    secrets: list[SigningSecret] = Field(default=[])
    """Signing secrets, `whsec_…`. List two while you change a secret."""
    allow_private: list[NetworkText] = Field(default=[])
    """Private networks that the webhook may be in."""


class AlertEmail(Model):
    """A mailbox that gets the alerts, and its mail server."""

    host: str = Field(min_length=1)
    """The mail server."""
    port: Annotated[int, Field(ge=1, le=65535), NUMBER] = 587
    """The port of the mail server."""
    security: Literal["starttls", "tls", "none"] = "starttls"
    """How the connection is encrypted. `none` allows no password, except on this machine."""
    username: Login | None = None
    """The user name for the mail server. It needs `password`."""
    password: Password | None = None
    """The password for the mail server. It needs `username`."""
    sender: Mailbox = Field(alias="from")
    """The sender's address."""
    to: list[Mailbox] = Field(min_length=1)
    """The addresses that get the alerts."""

    @pydantic.model_validator(mode="after")
    def _no_password_in_clear(self) -> Self:
        if (self.username is None) != (self.password is None):
            raise ValueError("should have both username and password, or neither")
        if self.password and self.security == "none" and not HostPort(self.host, 0).loopback:
            raise ValueError("should have security: starttls or tls, to keep the password secret")
        return self


class Tracing(Model):
    """Where traces go (OTLP over HTTP), and the share of events that are traced."""

    endpoint: HttpUrl = Field(repr=False)
    """The address of an OTLP collector (HTTP), as in `http://127.0.0.1:4318/v1/traces`."""
    share: Annotated[float, Field(ge=0, le=1), NUMBER] = 1.0
    """The share of events that are traced, from 0 to 1."""
    headers: dict[str, Password] = Field(default={})
    """Headers for the collector, such as an API key."""

    @pydantic.model_validator(mode="after")
    def _in_confidence(self, info: pydantic.ValidationInfo) -> Self:
        if SECRET_HEADERS & {name.lower() for name in self.headers}:
            check_confidential("endpoint", self.endpoint, info)
        return self


class Alerts(Model):
    """Who gets alerts, what raises them, and how often they are sent again."""

    rules: AlertRules = Field(default_factory=AlertRules)
    """What raises an alert, and after how long. `never` turns a rule off."""
    repeat: Annotated[Positive, between("1s", "365d")] = written("4h")
    """How often an alert is sent again while its cause lasts."""
    webhook: AlertWebhook | None = None
    """A webhook that gets the alerts."""
    email: AlertEmail | None = None
    """A mailbox that gets the alerts."""


class Retention(Model):
    """How long events and callbacks are kept after they arrive.

    An event that still waits for a delivery stays until that has ended.
    """

    delivered: RetentionTime = written("30d")
    """How long events are kept that every sink has. `never` keeps them for good."""
    dead: RetentionTime = written("180d")
    """How long events with a dead delivery are kept."""
    quarantine: RetentionTime = written("90d")
    """How long callbacks stay in quarantine."""
    quarantine_size: Annotated[Size, sized("0B", "1TiB")] = written("256MiB")
    """The most bytes in quarantine. Above it, the oldest callbacks are deleted."""


class Settings(Model):
    """All options of relay.yaml."""

    server: Server = Field(default_factory=Server)
    """The public listener, which gets the callbacks."""
    admin: Admin = Field(default_factory=Admin)
    """The private listener, for operators."""
    store: StorePlace = written(DEFAULT_STORE)
    """The file with all events and deliveries."""
    store_fallback: FilePlace | None = None
    """The file for callbacks while the store cannot be written. Default: the store's path with
    `.spill`. Best on another disk."""
    store_reserve: Annotated[Size, sized("0B", "1TiB")] = written("64MiB")
    """Disk space that callbacks never fill."""
    retention: Retention = Field(default_factory=Retention)
    """How long events and callbacks are kept."""
    timezone: Timezone = written("UTC")
    """The time zone of days in file names, of `date()` and of tables."""
    plugins: list[str] = Field(default=[DEFAULT_PLUGINS])
    """Folders with your own plugins."""
    sources: dict[Name, SourceConfig] = Field(default={})
    """The sources, by name. A source takes callbacks at `/callbacks/NAME`."""
    sinks: dict[Name, SinkSettings] = Field(default={})
    """The sinks, by name. A sink gets events."""
    alerts: Alerts = Field(default_factory=Alerts)
    """Who is alerted, and when."""
    tracing: Tracing | None = None
    """OpenTelemetry traces. Needs the extra `otel`."""
