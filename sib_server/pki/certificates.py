"""Building certificates. Pure: keys and times come in, a certificate goes out."""

from __future__ import annotations

import ipaddress
import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sib_protocol.errors import ExitCode, SibError
from sib_protocol.renewal import BACKDATE_SECONDS, LIFE_SECONDS
from sib_server.pki.peer import HOST_URN, NAME_URN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric import ec

    from sib_protocol.ids import HostId, HostName

ROOT_LIFE: Final = timedelta(days=3650)
LIFE: Final = timedelta(seconds=LIFE_SECONDS)
BACKDATE: Final = timedelta(seconds=BACKDATE_SECONDS)

_DNS_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    r"(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
_CLIENT: Final = ExtendedKeyUsageOID.CLIENT_AUTH
_SERVER: Final = ExtendedKeyUsageOID.SERVER_AUTH


class ServerNameError(SibError):
    """A name that the server's certificate cannot carry."""

    exit_code = ExitCode.SETTINGS

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name!r} is neither a host name nor an IP address",
            "see listen.names and listen.public_urls in the settings",
        )
        self.name = name


class AuthorityNameError(SibError):
    """A name that no CA can have."""

    exit_code = ExitCode.USAGE

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name[:80]!r} cannot name a CA", "use 1 to 64 characters that can be printed"
        )
        self.name = name


class AuthorityExpiredError(SibError):
    """The CA has reached its end."""

    exit_code = ExitCode.UNTRUSTED

    def __init__(self, not_after: datetime) -> None:
        super().__init__(
            f"the CA ended at {not_after.isoformat()}: it can sign nothing any more",
            "make a new CA in another directory with 'sib-server ca init' and enroll the hosts",
        )
        self.not_after = not_after


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def build_root(key: ec.EllipticCurvePrivateKey, name: str, now: datetime) -> x509.Certificate:
    """A self-signed root that may sign no further CAs.

    Args:
        key: P-256.
        name: its common name, 1 to 64 characters.
        now: with a time zone.

    Raises:
        AuthorityNameError: not such a name.
    """
    if not (0 < len(name) <= 64 and name.isprintable()):
        raise AuthorityNameError(name)
    subject = _common_name(name)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + ROOT_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _build_leaf(
    root: x509.Certificate,
    root_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePublicKey,
    *,
    common_name: str,
    names: Sequence[x509.GeneralName],
    usage: x509.ObjectIdentifier,
    now: datetime,
) -> x509.Certificate:
    if now >= root.not_valid_after_utc:
        raise AuthorityExpiredError(root.not_valid_after_utc)
    return (
        x509.CertificateBuilder()
        .subject_name(_common_name(common_name))
        .issuer_name(root.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(min(now + LIFE, root.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            critical=False,
        )
        .sign(root_key, hashes.SHA256())
    )


def build_host_certificate(
    root: x509.Certificate,
    root_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePublicKey,
    *,
    host_id: HostId,
    host_name: HostName,
    now: datetime,
) -> x509.Certificate:
    """A host's certificate: good for a TLS client and nothing else.

    Raises:
        AuthorityExpiredError: the root is over.
    """
    names = [
        x509.UniformResourceIdentifier(HOST_URN + host_id),
        x509.UniformResourceIdentifier(NAME_URN + host_name),
    ]
    return _build_leaf(
        root, root_key, key, common_name=host_name, names=names, usage=_CLIENT, now=now
    )


def parse_server_name(text: str) -> x509.GeneralName:
    """A DNS name or an IP address (in brackets or not).

    Raises:
        ServerNameError: neither; wildcards are not names.
    """
    try:
        return x509.IPAddress(ipaddress.ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        if not _DNS_NAME.fullmatch(text):
            raise ServerNameError(text) from None
    return x509.DNSName(text)


def build_server_certificate(
    root: x509.Certificate,
    root_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePublicKey,
    *,
    names: Sequence[str],
    now: datetime,
) -> x509.Certificate:
    """The server's certificate: good for a TLS server and nothing else.

    Args:
        root: the CA's certificate.
        root_key: its key.
        key: the server's.
        names: DNS names and IP addresses, at least one.
        now: with a time zone.

    Raises:
        ServerNameError: a name is neither.
        AuthorityExpiredError: the root is over.
    """
    parsed = [parse_server_name(name) for name in names]
    return _build_leaf(
        root, root_key, key, common_name=names[0], names=parsed, usage=_SERVER, now=now
    )
