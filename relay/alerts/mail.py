"""A mailbox as a channel: each note is one mail."""

import asyncio
import smtplib
import socket
import ssl
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime

from relay.alerts import note as words
from relay.alerts.channel import NotSaid
from relay.alerts.policy import Note
from relay.configuration.settings import AlertEmail

TIMEOUT = 20.0
"""Seconds for each step of the talk with the server, which runs in a thread."""


class Mailbox:
    """Hands mail to one server, which has to take it for at least one of those it is for."""

    name = "email"

    def __init__(self, settings: AlertEmail) -> None:
        self._settings = settings

    async def say(self, note: Note) -> None:
        """As in Channel."""
        try:
            await asyncio.to_thread(self._send, self._mail(note))
        except smtplib.SMTPResponseException as error:
            # What the server says may quote what it was given; its code will do.
            raise NotSaid(f"{self._server}: {type(error).__name__} {error.smtp_code}") from None
        except (smtplib.SMTPException, OSError, ValueError) as error:
            raise NotSaid(f"{self._server}: {type(error).__name__}") from None

    async def close(self) -> None:
        """As in Channel. No connection outlasts its mail."""

    @property
    def _server(self) -> str:
        return f"{self._settings.host}:{self._settings.port}"

    def _mail(self, note: Note) -> EmailMessage:
        mail = EmailMessage()
        mail["Subject"] = words.subject(note)
        mail["From"] = self._settings.sender
        mail["To"] = ", ".join(self._settings.to)
        mail["Date"] = format_datetime(datetime.fromtimestamp(note.at, UTC))
        mail["Message-ID"] = f"<{words.message_id(note)}@{self._settings.sender.partition('@')[2]}>"
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(words.text(note))
        return mail

    # in the thread

    def _send(self, mail: EmailMessage) -> None:
        settings = self._settings
        with self._connect() as server:
            if settings.security == "starttls":
                server.starttls(context=ssl.create_default_context())
            if settings.username is not None and settings.password is not None:
                server.login(settings.username, settings.password.get_secret_value())
            server.send_message(mail)

    def _connect(self) -> smtplib.SMTP:
        # Named, as smtplib would ask the DNS for a name.
        host, port, name = self._settings.host, self._settings.port, socket.gethostname()
        if self._settings.security == "tls":
            context = ssl.create_default_context()
            return smtplib.SMTP_SSL(host, port, name, timeout=TIMEOUT, context=context)
        return smtplib.SMTP(host, port, name, timeout=TIMEOUT)
