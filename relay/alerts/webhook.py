"""A channel: where notes go. A webhook here; a mailbox in relay.alerts.email."""

import time
from typing import Protocol

import httpx

from relay.alerts import message as words
from relay.alerts.policy import Note
from relay.config.model import AlertWebhook
from relay.delivery import http
from relay.delivery.http import read_answer
from relay.outcome import Pause
from relay.signing import key_of, signed_headers

TIMEOUT = 10.0


class NotSaid(Exception):
    """The note did not get through; the text says why, without a secret."""


class Channel(Protocol):
    """Where notes go."""

    name: str

    async def say(self, note: Note) -> None:
        """Return when the other side has it; raise NotSaid where it has not."""

    async def close(self) -> None:
        """Let go of connections."""


class Webhook:
    """A receiver of JSON, signed as Standard Webhooks has it. Guarded as the sinks' clients are."""

    name = "webhook"

    def __init__(self, settings: AlertWebhook) -> None:
        self._url = settings.url
        self._keys = [key_of(secret) for secret in settings.secrets]
        self._client = http.client(timeout=TIMEOUT, allow_private=settings.allow_private)

    async def say(self, note: Note) -> None:
        """As in Channel: any status of 2xx will do."""
        body = words.body(note)
        headers = [
            ("content-type", "application/json"),
            *signed_headers(self._keys, words.message_id(note), int(time.time()), body),
        ]
        request = self._client.build_request("POST", self._url, headers=headers, content=body)
        try:
            response = await self._client.send(request, stream=True)
            await read_answer(response)
        except (httpx.TransportError, Pause) as error:
            raise NotSaid(str(error)) from None
        if not response.is_success:
            raise NotSaid(f"the receiver answered {response.status_code}")

    async def close(self) -> None:
        """As in Channel."""
        await self._client.aclose()
