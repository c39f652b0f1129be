"""The certificate of a listener, and its renewal while the listener goes on."""

import logging
import ssl
from pathlib import Path

log = logging.getLogger("relay.server")


class Certificate:
    """A certificate with its key, in two files. Raises OSError unless they are that.

    `context` is for the next connection; those that are there keep theirs.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = (certificate, key)
        self._seen = self._look()
        self.context = self._load()

    def renew(self) -> bool:
        """Take new files, if there are any; where they are wrong, the old certificate stays."""
        seen = self._look()
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            self.context = self._load()
        except OSError as error:
            # It may be half of a renewal, the other half of which is still to come.
            log.error("the certificate stays as it was: %s", error)
            return False
        log.info("the certificate %s has been renewed", self._files[0])
        return True

    def _look(self) -> list[tuple[int, int, int] | None]:
        """What tells one version of the files from another."""
        return [_version(file) for file in self._files]

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        certificate, key = self._files
        try:
            context.load_cert_chain(certificate, key, password=_no_password)
        except ssl.SSLError as error:
            raise OSError(
                f"{certificate} and {key} are no certificate with its key: {error.reason or error}"
            ) from error
        return context


def _version(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _no_password() -> str:
    """For a key that wants one: OpenSSL would ask the terminal, and wait."""
    return ""
