"""Hosts that a restored ledger does not know.

Certificates live for a week. So whenever a backup is put back, some hosts have renewed since it
was taken, and some enrolled: their certificates are the CA's own and not in the ledger. Those
issued between the backup and its restore are taken into the ledger when their host first comes,
and no others: what was unknown before or after has been forged, or forgotten on purpose.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from sib_protocol.errors import UNDECODABLE
from sib_protocol.renewal import BACKDATE_SECONDS
from sib_server.fleet import hosts as registry
from sib_server.pki import ledger
from sib_server.pki.peer import UNREADABLE, NotAHostCertificateError, parse_peer
from sib_server.pki.requests import HostRequest, key_digest

if TYPE_CHECKING:
    from pathlib import Path

    import sqlalchemy as sa

    from sib_server.pki.peer import PeerCertificate

_LOG: Final = logging.getLogger(__name__)
FILE: Final = "restored.json"
"""Lies in the CA's directory of a server that was restored."""

_SLACK_NS: Final = 600 * 10**9
_TOKEN: Final = "restored"  # noqa: S105  (stands for a token's id)


class AdoptionWindow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Between which times certificates were issued that the ledger has lost.

    Attributes:
        taken_ns: when the backup was taken, nanoseconds since 1970 UTC.
        restored_ns: when it was put back.
    """

    taken_ns: int
    restored_ns: int

    def holds(self, issued_ns: int) -> bool:
        """Whether a certificate that was issued at this time may be a lost one."""
        return self.taken_ns - _SLACK_NS <= issued_ns <= self.restored_ns + _SLACK_NS


def read_window(pki: Path) -> AdoptionWindow | None:
    """The window of a restored server; ``None`` for one that never was, or cannot say."""
    try:
        return msgspec.json.decode((pki / FILE).read_bytes(), type=AdoptionWindow)
    except FileNotFoundError:
        return None
    except (OSError, *UNDECODABLE) as error:
        _LOG.warning("%s cannot be used: %s", pki / FILE, error)
        return None


@dataclass(frozen=True, slots=True)
class Adoptable:
    """A certificate that a restored ledger may have lost.

    Attributes:
        peer: whom it names.
        certificate: itself.
        request: as the ledger keeps it; the request itself is lost.
        issued_ns: nanoseconds since 1970 UTC.
    """

    peer: PeerCertificate
    certificate: x509.Certificate
    request: HostRequest
    issued_ns: int


def find_adoptable(der: bytes, root: x509.Certificate, window: AdoptionWindow) -> Adoptable | None:
    """Whether a certificate is this CA's, a host's, and of the time that was lost. Pure.

    Args:
        der: of the certificate.
        root: the CA's.
        window: the time that was lost.
    """
    try:
        peer = parse_peer(der)
        certificate = x509.load_der_x509_certificate(der)
        certificate.verify_directly_issued_by(root)
    except (NotAHostCertificateError, InvalidSignature, *UNREADABLE):
        return None
    key = certificate.public_key()
    issued = int(certificate.not_valid_before_utc.timestamp()) + BACKDATE_SECONDS
    if not window.holds(issued * 10**9) or not isinstance(key, ec.EllipticCurvePublicKey):
        return None
    # The certificate's own digest is one that no request ever has.
    request = HostRequest(key, ledger.fingerprint(der), key_digest(key))
    return Adoptable(peer, certificate, request, issued * 10**9)


def adopt(connection: sa.Connection, found: Adoptable, now_ns: int) -> bool:
    """Take a certificate into the ledger, where that is right.

    Args:
        connection: a write transaction.
        found: the certificate.
        now_ns: nanoseconds since 1970 UTC.

    Returns:
        Whether it was: not when its host was removed before the backup, or its key is another's.

    Raises:
        HostNameTakenError: another host has the name by now; the transaction is lost.
    """
    peer = found.peer
    if ledger.key_belongs_to_another(connection, found.request.key_digest, peer.host_id):
        return False
    if not _has_place(connection, peer, now_ns):
        return False
    ledger.record_issued(
        connection, found.certificate, peer.host_id, found.request, found.issued_ns
    )
    _LOG.info(
        "host %s taken up after the restore, with a certificate that the backup does not have",
        peer.host_name,
        extra={"fields": {"serial": peer.serial}},
    )
    return True


def _has_place(connection: sa.Connection, peer: PeerCertificate, now_ns: int) -> bool:
    """Whether the certificate's host is enrolled; one that enrolled since is entered."""
    try:
        known = registry.find_host(connection, peer.host_id)
    except registry.HostNotFoundError:
        registry.insert_host(
            connection,
            peer.host_id,
            peer.host_name,
            tags=(),
            token_id=_TOKEN,
            address="",
            now_ns=now_ns,
        )
        return True
    return known.removed_ns is None and known.name == peer.host_name
