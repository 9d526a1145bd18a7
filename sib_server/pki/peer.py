"""Who a peer certificate says its holder is. Pure: whether to believe it is another question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from sib_protocol.errors import MalformedMessageError
from sib_protocol.ids import HostId, HostName, parse_host_id, parse_host_name
from sib_server.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

HOST_URN: Final = "urn:sib:host:"
NAME_URN: Final = "urn:sib:name:"
"""The whole name stands in a URI because X.509 ends a common name at 64 characters."""

UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises over certificates and requests that are broken on purpose."""


class NotAHostCertificateError(RefusedError):
    """A certificate that does not name a host of SIB."""

    code = "not_a_host_certificate"
    status = 401

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"this is not a host's certificate: {reason}",
            "enroll the host with a token from 'sib-server token create'",
        )
        self.reason = reason


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """What a host's certificate says.

    Attributes:
        host_id: the host's UUID.
        host_name: its whole name.
        serial: lower-case hex without leading zeros.
        not_after: seconds since 1970 UTC.
        der: the certificate itself.
    """

    host_id: HostId
    host_name: HostName
    serial: str
    not_after: int
    der: bytes


def serial_text(certificate: x509.Certificate) -> str:
    """A serial number as SIB writes it: lower-case hex without leading zeros."""
    return format(certificate.serial_number, "x")


def _only(uris: Sequence[str], prefix: str) -> str:
    found = [uri.removeprefix(prefix) for uri in uris if uri.startswith(prefix)]
    if len(found) != 1:
        raise NotAHostCertificateError(f"it has {len(found)} names {prefix}…, not one")
    return found[0]


def parse_peer(der: bytes) -> PeerCertificate:
    """Read a peer certificate.

    Raises:
        NotAHostCertificateError: not X.509, or it does not name exactly one host.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        serial = serial_text(certificate)
        not_after = int(certificate.not_valid_after_utc.timestamp())
    except x509.ExtensionNotFound as error:
        raise NotAHostCertificateError("it has no alternative names") from error
    except UNREADABLE as error:
        raise NotAHostCertificateError("it cannot be read") from error
    try:
        return PeerCertificate(
            host_id=parse_host_id(_only(uris, HOST_URN)),
            host_name=parse_host_name(_only(uris, NAME_URN)),
            serial=serial,
            not_after=not_after,
            der=der,
        )
    except MalformedMessageError as error:
        raise NotAHostCertificateError(error.problem) from error
