"""Send each event to a URL, signed as Standard Webhooks describes.

sinks:
  hook:
    plugin: webhook
    options:
      url: https://receiver.example/hook
      method: POST           # or PUT, PATCH
      headers: {X-Tenant: "7"}
      secrets: [whsec_…]     # several while a secret is rotated
      body: structured       # or binary, batch (CloudEvents), record, form (plain)
      auth: {bearer: …}      # or {basic: {username: …, password: …}}

If the sink has a `map`, its record is sent as `data` of the CloudEvent. An answer 2xx means that
the event is delivered. An answer 410 pauses the sink.
"""

import base64
import hashlib
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import quote, urlencode

import httpx
import orjson
import pydantic

import relay

HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
HEADER_VALUE = re.compile(r"[\x20-\x7e\t]*")
OWN_HEADERS = {
    "content-length",
    "transfer-encoding",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
}
# Characters that a `ce-` header has unescaped: printable ASCII but the space, the quote and `%`.
PLAIN = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
CONTENT_TYPES = {
    "structured": "application/cloudevents+json",
    "binary": "application/json",
    "batch": "application/cloudevents-batch+json",
    "record": "application/json",
    "form": "application/x-www-form-urlencoded",
}
LARGEST_BATCH = 1024 * 1024


def _one_line(value: pydantic.SecretStr) -> pydantic.SecretStr:
    if not HEADER_VALUE.fullmatch(value.get_secret_value()):
        raise ValueError("should be one line of ASCII")
    return value


HeaderValue = Annotated[pydantic.SecretStr, pydantic.AfterValidator(_one_line), relay.AS_PASSWORD]
Bearer = Annotated[pydantic.SecretStr, pydantic.AfterValidator(_one_line), relay.AS_KEY]


class Basic(relay.Options):
    """User name and password (RFC 7617); one of them may be left out, not given as empty."""

    username: Annotated[str, pydantic.Field(pattern="^[^:]*$"), relay.AS_PASSWORD] = ""
    """The user name. It has no colon."""
    password: relay.Password = pydantic.SecretStr("")
    """The password."""

    @pydantic.model_validator(mode="after")
    def _not_neither(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("should have username, password or both")
        return self


class Auth(relay.Options):
    """What the header Authorization says."""

    basic: Basic | None = None
    """Basic authentication with a user name and a password."""
    bearer: Bearer | None = None
    """A bearer token."""

    @pydantic.model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.basic is None) == (self.bearer is None):
            raise ValueError("should have either basic or bearer")
        return self

    def header(self) -> str:
        if self.bearer is not None:
            return f"Bearer {self.bearer.get_secret_value()}"
        assert self.basic is not None
        pair = f"{self.basic.username}:{self.basic.password.get_secret_value()}"
        return f"Basic {base64.b64encode(pair.encode()).decode()}"


class Options(relay.Options):
    """The options of a `webhook` sink."""

    url: relay.HttpUrl = pydantic.Field(repr=False)  # many a receiver's URL is its secret
    """The receiver's address. Redirects are not followed."""
    method: Literal["POST", "PUT", "PATCH"] = "POST"
    """The HTTP method."""
    headers: dict[str, HeaderValue] = pydantic.Field(default_factory=dict)
    """Further headers, as in `{X-Team: marketing}`."""
    secrets: list[relay.SigningSecret] = pydantic.Field(default_factory=list)
    """Signing secrets of Standard Webhooks, `whsec_…`. List two while you change a secret."""
    body: Literal["structured", "binary", "batch", "record", "form"] = "structured"
    """The format. `structured`, `binary` and `batch` are CloudEvents; `record` is plain JSON and
    `form` a web form."""
    auth: Auth | None = None
    """The header `Authorization`. It needs an https address, or one on this machine."""

    @pydantic.field_validator("headers")
    @classmethod
    def _possible_names(cls, headers: dict[str, Any]) -> dict[str, Any]:
        for name in headers:
            if not HEADER_NAME.fullmatch(name):
                raise ValueError(f"{name!r} cannot be a header's name")
            if name.lower() in OWN_HEADERS:
                raise ValueError(f"{name} is set by the sink itself")
        return headers

    @pydantic.model_validator(mode="after")
    def _in_confidence(self, info: pydantic.ValidationInfo) -> Self:
        if self.auth or relay.SECRET_HEADERS & {name.lower() for name in self.headers}:
            relay.check_confidential("url", self.url, info)
        return self


class Webhook(relay.Sink):
    """Sends one request for each event; with `body: batch`, one for up to 100 events."""

    Options = Options
    max_batch: ClassVar[int] = 100
    check_ends_pause: ClassVar[bool] = False

    @classmethod
    def batch_limit(cls, options: Any) -> int:
        return cls.max_batch if options.body == "batch" else 1

    async def open(self) -> None:
        """Prepare the URL, the keys and the headers, which are the same for every request."""
        options = self.options
        self._url = httpx.URL(options.url)
        self._keys = [relay.signing_key(secret) for secret in options.secrets]
        headers = httpx.Headers(self.http.headers)
        headers["content-type"] = CONTENT_TYPES[options.body]
        if options.auth:
            headers["authorization"] = options.auth.header()
        for name, value in options.headers.items():
            headers[name] = value.get_secret_value()
        self._headers = headers.multi_items()
        self._mapped = self.columns is not None

    async def check(self) -> list[str]:
        """Whether the receiver can be reached; nothing is sent to it."""
        try:
            await relay.reach(self.http, self.options.url)
        except (httpx.TransportError, relay.Pause) as error:
            return [str(error)]
        return []

    async def send(self, delivery: relay.Delivery) -> relay.Delivered:
        attributes = _attributes(delivery.event) if self.options.body == "binary" else ()
        return await self._request(delivery.id, self._body(delivery), attributes)

    async def send_batch(self, deliveries: Sequence[relay.Delivery]) -> Sequence[relay.Outcome]:
        if self.options.body != "batch":
            return await super().send_batch(deliveries)
        body = b"[%b]" % b",".join(map(self._envelope, deliveries))
        if len(body) > LARGEST_BATCH and len(deliveries) > 1:
            raise relay.Reject("the batch is larger than 1 MiB")  # each is then sent alone
        return [await self._request(_batch_id(deliveries), body)] * len(deliveries)

    def _body(self, delivery: relay.Delivery) -> bytes:
        match self.options.body:
            case "structured":
                return self._envelope(delivery)
            case "binary":
                return _json(delivery.record if self._mapped else delivery.event.data)
            case "form":
                return urlencode(list(_pairs(delivery.record or {}))).encode()
            case _:
                return _json(delivery.record)

    def _envelope(self, delivery: relay.Delivery) -> bytes:
        envelope = delivery.event.to_dict()
        if self._mapped:
            envelope["data"] = delivery.record
        return _json(envelope)

    async def _request(
        self, message_id: str, body: bytes, attributes: Iterable[tuple[str, str]] = ()
    ) -> relay.Delivered:
        signed = relay.signed_headers(self._keys, message_id, int(time.time()), body)
        headers = [*self._headers, *attributes, *signed]
        request = httpx.Request(self.options.method, self._url, headers=headers, content=body)
        response = await self.http.send(request, stream=True)
        answer = await relay.read_answer(response)
        if not response.is_success:
            _refuse(request, response, answer)
        return relay.Delivered(str(response.status_code))


def _refuse(request: httpx.Request, response: httpx.Response, answer: bytes) -> None:
    status = response.status_code
    if status == 410:
        reason = "410 Gone: the receiver wants no more events; correct url, or disable the sink"
        raise relay.Pause(reason, status=status, answer=answer[:2048].decode(errors="replace"))
    read = httpx.Response(status, headers=response.headers, content=answer, request=request)
    raise httpx.HTTPStatusError("not delivered", request=request, response=read)


def _batch_id(deliveries: Sequence[relay.Delivery]) -> str:
    """The id of a batch. A retry with the same events has the same id."""
    ids = "\n".join(delivery.id for delivery in deliveries)
    return f"batch_{hashlib.sha256(ids.encode()).hexdigest()[:32]}"


def _attributes(event: relay.Event) -> Iterator[tuple[str, str]]:
    """The event's attributes as CloudEvents' binary mode writes them."""
    for name, value in event.to_dict().items():
        if name not in {"data", "datacontenttype"}:
            yield f"ce-{name}", quote(_text(value), safe=PLAIN)


def _pairs(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in record.items():
        for each in value if isinstance(value, list) else [value]:
            yield name, _text(each)


def _text(value: Any) -> str:
    """The value as text: a string unchanged, null as an empty string, anything else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else _json(value).decode()


def _json(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError as error:
        raise relay.Reject(f"the record cannot be written as JSON: {error}") from None


@relay.hookimpl
def register_sinks(register: Any) -> None:
    register("webhook", Webhook)
