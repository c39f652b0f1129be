"""Notifiers: alerts by webhook, by mail and in the log, and the text that each of them sends.

No text holds a contact's data.
"""

import asyncio
import contextlib
import hashlib
import logging
import socket
import ssl
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any, Protocol

import aiosmtplib
import httpx
import orjson

from relay.alerts.policy import Alert, Notification
from relay.clock import MICROSECONDS
from relay.config.model import AlertEmail, Alerts, AlertWebhook
from relay.delivery import http
from relay.delivery.http import read_answer
from relay.event import timestamp
from relay.outcome import Pause
from relay.signing import key_of, signed_headers
from relay.version import version

PAYLOAD_TYPE = "relay.alerts"
WEBHOOK_TIMEOUT = 10.0
REPLY_TIMEOUT = 20.0
"""Seconds for one reply of a mail server."""
EMAIL_TIMEOUT = 60.0
"""Seconds for a whole mail: a server that sends a letter at a time would hold up every notifier."""
QUIT_TIMEOUT = 2.0

log = logging.getLogger("relay.alerts")


class NotificationFailed(Exception):
    """A notification was not taken. The text says why, without a secret."""


class Notifier(Protocol):
    """A channel that takes notifications."""

    name: str

    async def send(self, notification: Notification) -> None:
        """Return when the other side has it. Raises NotificationFailed where it has not."""

    async def close(self) -> None:
        """Close connections."""


def make_notifiers(settings: Alerts) -> list[Notifier]:
    """The notifiers of relay.yaml."""
    found: list[Notifier] = []
    if settings.webhook is not None:
        found.append(WebhookNotifier(settings.webhook))
    if settings.email is not None:
        found.append(EmailNotifier(settings.email))
    return found


class LogNotifier:
    """The log, which every alert goes to."""

    name = "log"

    async def send(self, notification: Notification) -> None:
        """As in Notifier."""
        for alert in notification.new:
            log.error("%s: %s", _name(alert), alert.text)
        for alert in notification.resolved:
            log.info("over: %s", _name(alert))

    async def close(self) -> None:
        """As in Notifier."""


class WebhookNotifier:
    """A receiver of JSON, signed as Standard Webhooks has it.

    The client refuses the same addresses as those of the sinks.
    """

    name = "webhook"

    def __init__(self, settings: AlertWebhook) -> None:
        self._url = settings.url
        self._keys = [key_of(secret) for secret in settings.secrets]
        self._client = http.client(timeout=WEBHOOK_TIMEOUT, allow_private=settings.allow_private)

    async def send(self, notification: Notification) -> None:
        """As in Notifier. Any status of 2xx will do."""
        body = payload(notification)
        headers = [
            ("content-type", "application/json"),
            *signed_headers(self._keys, message_id(notification), int(time.time()), body),
        ]
        request = self._client.build_request("POST", self._url, headers=headers, content=body)
        try:
            response = await self._client.send(request, stream=True)
            await read_answer(response)
        except (httpx.TransportError, Pause) as error:
            raise NotificationFailed(str(error)) from None
        if not response.is_success:
            raise NotificationFailed(f"the receiver answered {response.status_code}")

    async def close(self) -> None:
        """As in Notifier."""
        await self._client.aclose()


class EmailNotifier:
    """A mail server, which has to take each mail for at least one of the recipients."""

    name = "email"

    def __init__(self, settings: AlertEmail) -> None:
        self._settings = settings

    async def send(self, notification: Notification) -> None:
        """As in Notifier."""
        settings = self._settings
        try:
            mail = self._mail(notification)
            # To read the machine's authorities takes many milliseconds.
            trust = await asyncio.to_thread(ssl.create_default_context)
            # Each mail has its own connection. Named, as the DNS would be asked for a name.
            server = aiosmtplib.SMTP(
                hostname=settings.host,
                port=settings.port,
                local_hostname=socket.gethostname(),
                timeout=REPLY_TIMEOUT,
                use_tls=settings.security == "tls",
                start_tls=settings.security == "starttls",
                tls_context=trust,
            )
            try:
                async with asyncio.timeout(EMAIL_TIMEOUT):
                    await self._deliver(mail, server)
                with contextlib.suppress(aiosmtplib.SMTPException):  # it has been taken
                    await server.quit(timeout=QUIT_TIMEOUT)
            finally:
                server.close()
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            place = f"{settings.host}:{settings.port}"
            raise NotificationFailed(f"{place}: {_smtp_error(error)}") from None

    async def close(self) -> None:
        """As in Notifier. No connection outlasts its mail."""

    async def _deliver(self, mail: EmailMessage, server: aiosmtplib.SMTP) -> None:
        username, password = self._settings.username, self._settings.password
        await server.connect()
        if username is not None and password is not None:
            await server.login(username, password.get_secret_value())
        await server.send_message(mail)

    def _mail(self, notification: Notification) -> EmailMessage:
        sender = self._settings.sender
        mail = EmailMessage()
        mail["Subject"] = subject(notification)
        mail["From"] = sender
        mail["To"] = ", ".join(self._settings.to)
        mail["Date"] = format_datetime(datetime.fromtimestamp(notification.at, UTC))
        mail["Message-ID"] = f"<{message_id(notification)}@{sender.partition('@')[2]}>"
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(text(notification))
        return mail


def _smtp_error(error: Exception) -> str:
    """The kind of error, and the server's code. Its text may quote what it was given."""
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return f"{type(error).__name__} {error.code}"
    if type(error) is aiosmtplib.SMTPException:  # of this class are aiosmtplib's own sentences
        return str(error)
    cause = error.__cause__ if isinstance(error, aiosmtplib.SMTPException) else None
    return type(cause or error).__name__


def subject(notification: Notification) -> str:
    """One line: what is wrong or over, and on which machine."""
    parts = []
    if notification.new:
        parts.append(_names(notification.new))
    elif notification.lasting:
        parts.append(f"still {_names(notification.lasting)}")
    if notification.resolved:
        parts.append(f"over: {_names(notification.resolved)}")
    return f"[relay {socket.gethostname()}] {'; '.join(parts)}"


def text(notification: Notification) -> str:
    """The whole notification, for a person."""
    signature = f"Sumotext Relay {version()} on {socket.gethostname()}."
    return "\n".join(
        [
            *_section("New", notification.new),
            *_section("Still so", notification.lasting),
            *_section("Over", notification.resolved),
            f"{signature} `relay status` shows how all of it stands.",
            "",
        ]
    )


def payload(notification: Notification) -> bytes:
    """The JSON that a webhook gets."""
    return orjson.dumps(
        {
            "type": PAYLOAD_TYPE,
            "timestamp": _time(notification.at),
            "text": f"{subject(notification)}\n\n{text(notification)}",
            "data": {
                "host": socket.gethostname(),
                "new": [_view(each) for each in notification.new],
                "lasting": [_view(each) for each in notification.lasting],
                "over": [_view(each) for each in notification.resolved],
            },
        }
    )


def message_id(notification: Notification) -> str:
    """An id that is the same for the same notification, should it be sent twice."""
    active = (*notification.new, *notification.lasting)
    begun = [[each.rule, each.subject, each.since] for each in active]
    ended = [[each.rule, each.subject, each.last_seen] for each in notification.resolved]
    text = orjson.dumps([socket.gethostname(), begun, ended, notification.at])
    return f"alert_{hashlib.sha256(text).hexdigest()[:32]}"


def _section(title: str, alerts: Iterable[Alert]) -> list[str]:
    found = [f"- {alert.text} ({_name(alert)}, since {_time(alert.since)})" for alert in alerts]
    return [f"{title}:", *found, ""] if found else []


def _names(alerts: Iterable[Alert]) -> str:
    return ", ".join(map(_name, alerts))


def _name(alert: Alert) -> str:
    return f"{alert.rule} {alert.subject}".strip()


def _view(alert: Alert) -> dict[str, Any]:
    return {
        "rule": alert.rule,
        "subject": alert.subject or None,
        "since": _time(alert.since),
        "text": alert.text,
    }


def _time(seconds: float) -> str:
    """To the second, as RFC 3339 has it."""
    return f"{timestamp(int(seconds) * MICROSECONDS)[:19]}Z"
