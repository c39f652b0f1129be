"""A mailbox as a channel: each note is one mail."""

import asyncio
import contextlib
import smtplib
import socket
import ssl
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any, BinaryIO

from relay.alerts import message as words
from relay.alerts.policy import Note
from relay.alerts.webhook import NotSaid
from relay.config.model import AlertEmail

TIMEOUT = 20.0
"""Seconds for each step of the talk with the server, which runs in a thread."""
LONGEST = 60.0
"""Seconds for all of it: a server that says a letter at a time would hold up every channel."""


MOST_LINES = 100
"""Lines of one reply of the server; each has at most 8 KiB."""


class Talk:
    """A talk with the server, which another thread can end at any time."""

    def __init__(self) -> None:
        self.over = False
        self.server: smtplib.SMTP | None = None

    def end(self) -> None:
        """Have whoever waits for an answer wait no more."""
        self.over = True
        if self.server is not None and (connection := self.server.sock) is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Lines:
    """What the server says, line by line, and so many lines for a reply."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = 0

    def begin_reply(self) -> None:
        self._left = MOST_LINES

    def readline(self, longest: int) -> bytes:
        """As of a file. Raises an OSError of smtplib's where a reply does not end."""
        if not self._left:
            raise smtplib.SMTPServerDisconnected
        self._left -= 1
        return self._file.readline(longest)

    def close(self) -> None:
        self._file.close()


class Server(smtplib.SMTP):
    """smtplib's, which is known to its talk before it connects."""

    file: Lines | None
    sock: socket.socket

    def __init__(self, talk: Talk, *arguments: Any, **options: Any) -> None:
        self._talk = talk
        talk.server = self
        super().__init__(*arguments, **options)

    def getreply(self) -> tuple[int, bytes]:
        """As in smtplib, but bounded; none in a talk that is over."""
        if self._talk.over:
            raise smtplib.SMTPServerDisconnected
        if self.file is None:
            self.file = Lines(self.sock.makefile("rb"))
        self.file.begin_reply()
        return super().getreply()


class TlsServer(Server, smtplib.SMTP_SSL):
    """The same, with TLS from the first byte."""


class Mailbox:
    """Hands mail to one server, which has to take it for at least one of those it is for."""

    name = "email"

    def __init__(self, settings: AlertEmail) -> None:
        self._settings = settings

    async def say(self, note: Note) -> None:
        """As in Channel."""
        talk = Talk()
        try:
            mail = self._mail(note)
            async with asyncio.timeout(LONGEST):
                await asyncio.to_thread(self._send, mail, talk)
        except smtplib.SMTPResponseException as error:
            # What the server says may quote what it was given; its code will do.
            raise NotSaid(f"{self._server}: {type(error).__name__} {error.smtp_code}") from None
        except (smtplib.SMTPException, OSError, ValueError) as error:
            raise NotSaid(f"{self._server}: {type(error).__name__}") from None
        finally:
            talk.end()

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

    def _send(self, mail: EmailMessage, talk: Talk) -> None:
        settings = self._settings
        with self._connect(talk) as server:
            if settings.security == "starttls":
                server.starttls(context=ssl.create_default_context())
            if settings.username is not None and settings.password is not None:
                server.login(settings.username, settings.password.get_secret_value())
            server.send_message(mail)

    def _connect(self, talk: Talk) -> Server:
        # Named, as smtplib would ask the DNS for a name.
        host, port, name = self._settings.host, self._settings.port, socket.gethostname()
        if self._settings.security == "tls":
            context = ssl.create_default_context()
            return TlsServer(talk, host, port, name, timeout=TIMEOUT, context=context)
        return Server(talk, host, port, name, timeout=TIMEOUT)
