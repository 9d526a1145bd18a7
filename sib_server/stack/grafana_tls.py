"""Grafana's own certificate, where nobody gave it another.

It is its own issuer: one from SIB's CA would be accepted by agents as the server's, and Grafana,
which faces people's browsers, must not be able to pass for the server.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sib_protocol.errors import MalformedMessageError
from sib_protocol.keys import key_pem, load_key, new_key
from sib_server.pki.certificates import parse_server_name

if TYPE_CHECKING:
    from collections.abc import Sequence

LIFE: Final = timedelta(days=397)
RENEW_BEFORE: Final = timedelta(days=132)
_BACKDATE: Final = timedelta(hours=48)


def make_certificate(names: Sequence[str], *, now: datetime | None = None) -> bytes:
    """A new key and its certificate, PEM, in one file.

    Args:
        names: DNS names and IP addresses, at least one.
        now: with a time zone; the clock's by default.

    Raises:
        ServerNameError: a name is neither.
    """
    now = now or datetime.now(timezone.utc)
    key = new_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "SIB Grafana")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([parse_server_name(name) for name in names]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    return key_pem(key) + certificate.public_bytes(serialization.Encoding.PEM)


def is_good(content: bytes, names: Sequence[str], *, now: datetime | None = None) -> bool:
    """Whether a file that :func:`make_certificate` once made will do for some months more."""
    now = now or datetime.now(timezone.utc)
    try:
        certificate = x509.load_pem_x509_certificate(content)
        carried = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        key = load_key(content)
    except (ValueError, x509.ExtensionNotFound, MalformedMessageError):
        return False
    return (
        key.public_key() == certificate.public_key()
        and set(carried.value) == {parse_server_name(name) for name in names}
        and certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc - RENEW_BEFORE
    )
