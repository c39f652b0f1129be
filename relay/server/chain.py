"""The chain of a listener's certificate: those between it and a root that senders know."""

from pathlib import Path

from cryptography import x509

MISSING = (
    "{} holds the certificate alone: where no root has issued it, senders refuse it;"
    " name the file with the chain (fullchain.pem)"
)


def missing(certificate: Path) -> str | None:
    """What is to be said of a file without a chain; None where it has one or signs itself.

    Raises OSError.
    """
    try:
        found = x509.load_pem_x509_certificates(certificate.read_bytes())
    except ValueError:  # a form that OpenSSL alone reads, such as TRUSTED CERTIFICATE
        return None
    if len(found) > 1 or found[0].issuer == found[0].subject:
        return None
    return MISSING.format(certificate)
