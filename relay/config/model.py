"""The settings: what relay.yaml may say, as pydantic models.

Here stand the keys, their types and their defaults, which the loader and the JSON Schema read.
Defaults are written as relay.yaml would write them.
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
POSTGRESQL = ("postgresql://", "postgres://")

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


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
Network = Annotated[IPNetwork, *text_type(_network, "network", {})]
Timezone = Annotated[zoneinfo.ZoneInfo, *text_type(parse_timezone, "timezone", {})]
Token = Annotated[SecretStr, *text_type(_token, "token", {"minLength": 1}), AS_KEY]
StorePlace = Annotated[str, *text_type(_store, "store", {"minLength": 1})]
FilePlace = Annotated[str, Field(min_length=1)]
File = Annotated[Path, pydantic.BeforeValidator(_file, json_schema_input_type=str)]
Expression = Annotated[
    str, pydantic.BeforeValidator(_truth_is_text, json_schema_input_type=str | bool)
]
Positive = Annotated[Duration, Field(gt=0)]
Pause = Annotated[Positive, between("10ms", "7d")]
"""How long a sink rests, or waits before a retry."""
Kept = Annotated[Term, between("1m", "36500d")]
Noticed = Annotated[Term, between("1s", "365d")]
TooMany = Annotated[Threshold, counted("1s", "365d")]
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
    """Files of the certificate, with its chain, and of its private key."""

    cert: File
    key: File


class Connections(Model):
    """How many at once, and how many of them from one address; then the slowest make room."""

    total: Annotated[Whole, at_most(100_000)] = 1000
    each: Annotated[Whole, at_most(100_000)] = 250


class Server(Model):
    """The public listener, which Sumotext calls."""

    listen: Listen = written("127.0.0.1:8080")
    tls: Tls | None = None
    proxies: list[Network] = Field(default=[])
    connections: Connections = Field(default_factory=Connections)


class Admin(Model):
    """The listener for the operators."""

    listen: Listen = written("127.0.0.1:8081")
    hosts: list[HostName] = Field(default=[])


class Limit(Model):
    """The most that a source may send; what is above gets 429. It is for what no vendor does."""

    rate: Annotated[RateLimit, counted("10ms", "1d")] = written("10000/10s")
    bytes: Annotated[ByteRate, counted("10ms", "1d")] = written("64MiB/10s")


class SourceConfig(Model):
    """Somebody who sends callbacks to /callbacks/NAME."""

    country: Country = written("US")
    kind: Literal["auto", "web_form", "poll", "text_4_info", "message"] = "auto"
    tokens: list[Token] = Field(default=[])
    allow_from: list[Network] = Field(default=[])
    limit: Limit = Field(default_factory=Limit)
    rename: dict[str, str] = Field(default={})


class BatchSettings(Model):
    """How many deliveries go together, and how long one waits for others."""

    size: Whole | None = None
    wait: Annotated[Duration, between("0s", "1h")] = written("0s")


class RetrySettings(Model):
    """How long and how often a delivery is tried again: dead when both ends are reached."""

    initial: Pause = written("5s")
    max: Pause = written("6h")
    attempts: Annotated[Whole, at_most(10_000)] = 14
    window: Annotated[Duration, between("0s", "365d")] = written("4d")

    @pydantic.model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.initial > self.max:
            raise ValueError("initial should not be above max")
        return self


class BreakerSettings(Model):
    """After how many failures in a row a sink rests, and for how long."""

    failures: Annotated[Whole, at_most(10_000)] = 10
    cooldown: Pause = written("60s")


class SinkSettings(Model):
    """Somewhere that events are delivered to."""

    plugin: str
    enabled: bool = True
    when: Expression | None = None
    map: dict[str, Any] | None = None
    options: dict[str, Any] = Field(default={})
    batch: BatchSettings = Field(default_factory=BatchSettings)
    concurrency: Annotated[int, Field(ge=1, le=1000), NUMBER] = 4
    rate: Annotated[RateLimit, counted("10ms", "1d")] | None = None
    timeout: Annotated[Positive, between("100ms", "1h")] = written("30s")
    order: Literal["contact", "none"] = "contact"
    retry: RetrySettings = Field(default_factory=RetrySettings)
    breaker: BreakerSettings = Field(default_factory=BreakerSettings)
    allow_private: list[Network] = Field(default=[])
    blank: Blank | None = None


class AlertRules(Model):
    """What is told, and after how long; `never` for what is not."""

    opt_out_undelivered: Noticed = written("10m")
    backlog_age: Noticed = written("1h")
    sink_paused: Noticed = written("5m")
    dead: TooMany = written("1/1h")
    quarantine: TooMany = written("20/1h")
    keyword_silent: dict[str, Annotated[Positive, between("1s", "365d")]] = Field(default={})


class AlertWebhook(Model):
    """A receiver of alerts, which gets them signed as Standard Webhooks has it."""

    url: HttpUrl = Field(repr=False)
    secrets: list[SigningSecret] = Field(default=[])
    allow_private: list[Network] = Field(default=[])


class AlertEmail(Model):
    """A mailbox for alerts, and the server that takes mail for it."""

    host: str = Field(min_length=1)
    port: Annotated[int, Field(ge=1, le=65535), NUMBER] = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: Login | None = None
    password: Password | None = None
    sender: Mailbox = Field(alias="from")
    to: list[Mailbox] = Field(min_length=1)

    @pydantic.model_validator(mode="after")
    def _no_password_in_clear(self) -> Self:
        if (self.username is None) != (self.password is None):
            raise ValueError("should have both username and password, or neither")
        if self.password and self.security == "none" and not HostPort(self.host, 0).loopback:
            raise ValueError("should have security: starttls or tls, to keep the password secret")
        return self


class Tracing(Model):
    """Where traces go, by OTLP over HTTP, and the share of events that have one."""

    endpoint: HttpUrl = Field(repr=False)
    share: Annotated[float, Field(ge=0, le=1), NUMBER] = 1.0
    headers: dict[str, Password] = Field(default={})

    @pydantic.model_validator(mode="after")
    def _in_confidence(self, info: pydantic.ValidationInfo) -> Self:
        if SECRET_HEADERS & {name.lower() for name in self.headers}:
            check_confidential("endpoint", self.endpoint, info)
        return self


class Alerts(Model):
    """Who is told when something is wrong, of what, and how often again while it lasts."""

    rules: AlertRules = Field(default_factory=AlertRules)
    repeat: Annotated[Positive, between("1s", "365d")] = written("4h")
    webhook: AlertWebhook | None = None
    email: AlertEmail | None = None


class Retention(Model):
    """How long events and callbacks are kept, from their receipt on.

    One that still has to be delivered somewhere stays for as long as that takes.
    """

    delivered: Kept = written("30d")
    dead: Kept = written("180d")
    quarantine: Kept = written("90d")
    quarantine_size: Annotated[Size, sized("0B", "1TiB")] = written("256MiB")


class Settings(Model):
    """The whole of relay.yaml."""

    server: Server = Field(default_factory=Server)
    admin: Admin = Field(default_factory=Admin)
    store: StorePlace = written(DEFAULT_STORE)
    store_fallback: FilePlace | None = None
    store_reserve: Annotated[Size, sized("0B", "1TiB")] = written("64MiB")
    retention: Retention = Field(default_factory=Retention)
    timezone: Timezone = written("UTC")
    plugins: list[str] = Field(default=[DEFAULT_PLUGINS])
    sources: dict[Name, SourceConfig] = Field(default={})
    sinks: dict[Name, SinkSettings] = Field(default={})
    alerts: Alerts = Field(default_factory=Alerts)
    tracing: Tracing | None = None
