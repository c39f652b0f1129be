"""A mail server on loopback: real SMTP, in the event loop of the test."""

import asyncio
from contextlib import asynccontextmanager
from email import message_from_bytes
from email.policy import default

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword


class Mails:
    """What arrived. `answer` is what the next mails are answered with."""

    def __init__(self):
        self.mails = []
        self.recipients = []
        self.logins = []
        self.answer = "250 OK"
        self.port = 0
        self._arrived = asyncio.Event()

    async def handle_DATA(self, _server, _session, envelope):  # noqa: N802  aiosmtpd's name
        if self.answer.startswith("250"):
            self.mails.append(message_from_bytes(envelope.content, policy=default))
            self.recipients.append(envelope.rcpt_tos)
            self._arrived.set()
        return self.answer

    def authenticate(self, _server, _session, _envelope, _mechanism, data):
        assert isinstance(data, LoginPassword)
        self.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=data.password == b"open sesame", handled=False)

    async def next(self):
        """The next mail to come, once it is there."""
        async with asyncio.timeout(20):
            while not self.mails:
                self._arrived.clear()
                await self._arrived.wait()
        return self.mails.pop(0)


@asynccontextmanager
async def mail_server(*, tls=None, **options):
    """A server with these options of aiosmtpd's SMTP; with `tls` it speaks that from the start."""
    mails = Mails()
    if options.get("auth_required"):
        options["authenticator"] = mails.authenticate
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(mails, hostname="mail.test", **options), "127.0.0.1", 0, ssl=tls
    )
    mails.port = server.sockets[0].getsockname()[1]
    async with server:
        yield mails
