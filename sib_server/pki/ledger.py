"""The ledger of issued certificates: statements over the caller's connection."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import sqlalchemy as sa
from cryptography.hazmat.primitives import serialization

from sib_protocol.errors import ExitCode
from sib_protocol.ids import HostId, HostName
from sib_server.errors import RefusedError
from sib_server.pki.peer import serial_text
from sib_server.state.schema import certificates, hosts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography import x509

    from sib_server.pki.requests import HostRequest

SUPERSEDED_AFTER_NS: Final = 3600 * 10**9
"""How long the newer certificate has to be in use before the older one can renew no more.

A host goes over to its new certificate within seconds. One that still renews with the old one an
hour later is another machine with a copy of the key, or a snapshot put back.
"""


class CertificateNotFoundError(RefusedError):
    """A serial number that no certificate in the ledger has."""

    exit_code = ExitCode.NOT_FOUND
    code = "certificate_not_found"
    status = 404

    def __init__(self, serial: str) -> None:
        super().__init__(
            f"there is no certificate with the serial number {serial[:80]!r}",
            "see 'sib-server host list' and 'sib-server host show'",
        )


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A certificate in the ledger, with the host that it was issued to.

    Attributes:
        serial: lower-case hex.
        host_id: whose it is.
        host_name: its name.
        host_tags: from the token that enrolled it.
        host_removed: whether that host was removed.
        key_digest: SHA-256 of the public key.
        issued_ns: nanoseconds since 1970 UTC.
        not_after: seconds since 1970 UTC.
        first_used_ns: when a request first came with it, or ``None``.
        revoked_ns: when it was revoked, or ``None``.
        pem: the certificate.
    """

    serial: str
    host_id: HostId
    host_name: HostName
    host_tags: tuple[str, ...]
    host_removed: bool
    key_digest: str
    issued_ns: int
    not_after: int
    first_used_ns: int | None
    revoked_ns: int | None
    pem: str


_ISSUED: Final = sa.select(
    certificates.c.serial,
    certificates.c.host_id,
    hosts.c.name,
    # As text, whoever reads it: SQLAlchemy, or SQLite without it.
    sa.cast(hosts.c.tags, sa.Text),
    hosts.c.removed_ns,
    certificates.c.key_digest,
    certificates.c.issued_ns,
    certificates.c.not_after,
    certificates.c.first_used_ns,
    certificates.c.revoked_ns,
    certificates.c.pem,
).join_from(certificates, hosts)
BY_FINGERPRINT: Final = _ISSUED.where(certificates.c.fingerprint == sa.bindparam("fingerprint"))
"""A certificate by its :func:`fingerprint`; its rows are for :func:`issued`."""


def issued(row: Sequence[Any]) -> IssuedCertificate:
    """A certificate from its row."""
    serial, host_id, name, tags, removed_ns, *rest = row
    return IssuedCertificate(
        serial,
        HostId(host_id),
        HostName(name),
        msgspec.json.decode(tags, type=tuple[str, ...]),
        removed_ns is not None,
        *rest,
    )


def fingerprint(der: bytes) -> str:
    """SHA-256 of a certificate's DER, hex."""
    return hashlib.sha256(der).hexdigest()


def normal_serial(text: str) -> str:
    """A serial number as SIB writes it, from the ways in which people and tools write it."""
    return text.strip().lower().removeprefix("0x").replace(":", "").lstrip("0")


def record_issued(
    connection: sa.Connection,
    certificate: x509.Certificate,
    host_id: HostId,
    request: HostRequest,
    now_ns: int,
) -> str:
    """Enter a new certificate. Returns its PEM."""
    pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
    connection.execute(
        sa.insert(certificates).values(
            serial=serial_text(certificate),
            host_id=host_id,
            fingerprint=fingerprint(certificate.public_bytes(serialization.Encoding.DER)),
            key_digest=request.key_digest,
            request_digest=request.request_digest,
            issued_ns=now_ns,
            not_after=int(certificate.not_valid_after_utc.timestamp()),
            pem=pem,
        )
    )
    return pem


def find_by_der(connection: sa.Connection, der: bytes) -> IssuedCertificate | None:
    """The very certificate: another CA's with the same serial number is not found."""
    row = connection.execute(BY_FINGERPRINT, {"fingerprint": fingerprint(der)}).one_or_none()
    return None if row is None else issued(row)


def find_by_serial(connection: sa.Connection, serial: str) -> IssuedCertificate | None:
    """By serial number, as :func:`normal_serial` gives it."""
    row = connection.execute(_ISSUED.where(certificates.c.serial == serial)).one_or_none()
    return None if row is None else issued(row)


def find_by_request(connection: sa.Connection, request_digest: str) -> IssuedCertificate | None:
    """The newest certificate that was issued for the very same request."""
    query = (
        _ISSUED.where(certificates.c.request_digest == request_digest)
        .order_by(certificates.c.issued_ns.desc())
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else issued(row)


def key_belongs_to_another(
    connection: sa.Connection, key_digest: str, host_id: HostId | None
) -> bool:
    """Whether a host other than this one was ever given a certificate for the key."""
    query = sa.select(certificates.c.serial).where(certificates.c.key_digest == key_digest)
    if host_id is not None:
        query = query.where(certificates.c.host_id != host_id)
    return connection.execute(query.limit(1)).first() is not None


def is_superseded(connection: sa.Connection, old: IssuedCertificate, now_ns: int) -> bool:
    """Whether the host has been using a newer certificate for long enough.

    A newer certificate that was never used does not count: its answer may have been lost.
    """
    query = (
        sa.select(certificates.c.serial)
        .where(
            certificates.c.host_id == old.host_id,
            certificates.c.issued_ns > old.issued_ns,
            certificates.c.first_used_ns <= now_ns - SUPERSEDED_AFTER_NS,
        )
        .limit(1)
    )
    return connection.execute(query).first() is not None


def issued_since(connection: sa.Connection, host_id: HostId, since_ns: int) -> int:
    """How many certificates a host was given since a time."""
    return (
        connection.scalar(
            sa.select(sa.func.count())
            .select_from(certificates)
            .where(certificates.c.host_id == host_id, certificates.c.issued_ns >= since_ns)
        )
        or 0
    )


def mark_used(connection: sa.Connection, serial: str, now_ns: int) -> None:
    """Note the first request that came with a certificate."""
    connection.execute(
        sa.update(certificates)
        .where(certificates.c.serial == serial, certificates.c.first_used_ns.is_(None))
        .values(first_used_ns=now_ns)
    )


def revoke_serial(connection: sa.Connection, serial: str, now_ns: int) -> IssuedCertificate:
    """Revoke one certificate; once more does no harm.

    Raises:
        CertificateNotFoundError: it is not in the ledger.
    """
    connection.execute(
        sa.update(certificates)
        .where(certificates.c.serial == serial, certificates.c.revoked_ns.is_(None))
        .values(revoked_ns=now_ns)
    )
    found = find_by_serial(connection, serial)
    if found is None:
        raise CertificateNotFoundError(serial)
    return found


def revoke_all(connection: sa.Connection, host_id: HostId, now_ns: int) -> int:
    """Revoke every certificate of a host. Returns how many were not revoked yet."""
    return connection.execute(
        sa.update(certificates)
        .where(certificates.c.host_id == host_id, certificates.c.revoked_ns.is_(None))
        .values(revoked_ns=now_ns)
    ).rowcount


def forget_expired(connection: sa.Connection, host_id: HostId, before: int) -> None:
    """Drop a host's certificates that ended before a time (seconds since 1970 UTC).

    An unknown certificate is refused like a revoked one, so this lets nobody in.
    """
    connection.execute(
        sa.delete(certificates).where(
            certificates.c.host_id == host_id, certificates.c.not_after < before
        )
    )


def count_unrevoked(connection: sa.Connection, host_id: HostId) -> int:
    """How many certificates :func:`revoke_all` would revoke."""
    return (
        connection.scalar(
            sa.select(sa.func.count())
            .select_from(certificates)
            .where(certificates.c.host_id == host_id, certificates.c.revoked_ns.is_(None))
        )
        or 0
    )
