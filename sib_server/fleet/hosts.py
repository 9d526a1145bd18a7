"""The registry of hosts: statements over the caller's connection, and what they return.

A removed host's row stays, so that its id keeps meaning it; its name is free again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from sib_protocol.errors import UNDECODABLE, ExitCode
from sib_protocol.ids import HostId, HostName
from sib_protocol.messages import HealthReport
from sib_server.errors import RefusedError
from sib_server.state.schema import certificates, health, hosts

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNPRINTABLE: Final = re.compile(r"[^ -~]")


class HostNotFoundError(RefusedError):
    """No host has this id or name."""

    exit_code = ExitCode.NOT_FOUND
    code = "host_not_found"
    status = 404

    def __init__(self, reference: str) -> None:
        super().__init__(
            f"there is no host {reference[:253]!r}", "see 'sib-server host list' for ids and names"
        )
        self.reference = reference


class HostNameTakenError(RefusedError):
    """Another enrolled host has this name."""

    exit_code = ExitCode.CONFLICT
    code = "host_name_taken"
    status = 409

    def __init__(self, name: HostName) -> None:
        super().__init__(
            f"a host named {name} is enrolled already",
            f"if it is the same machine, free the name with 'sib-server host remove {name}' on the"
            " server and enroll again; else give this one another name",
        )
        self.name = name


@dataclass(frozen=True, slots=True)
class HostCertificate:
    """A host's newest certificate.

    Attributes:
        serial: lower-case hex.
        not_after: seconds since 1970 UTC.
        revoked: whether it was revoked.
    """

    serial: str
    not_after: int
    revoked: bool


@dataclass(frozen=True, slots=True)
class HostRecord:
    """A host as the server knows it.

    Attributes:
        id: its UUID.
        name: its name.
        tags: from the token that enrolled it.
        enrolled_ns: nanoseconds since 1970 UTC.
        removed_ns: when it was removed, or ``None``.
        last_seen_ns: when its last health report was received, or ``None``.
        version: of its agent, as last reported.
        address: where its last report, or its enrollment, came from.
        certificate: the newest one, if the ledger still has it.
        report: the last health report, or ``None``.
    """

    id: HostId
    name: HostName
    tags: tuple[str, ...]
    enrolled_ns: int
    removed_ns: int | None
    last_seen_ns: int | None
    version: str | None
    address: str | None
    certificate: HostCertificate | None
    report: HealthReport | None


_NEWEST: Final = (
    sa.select(certificates.c.serial)
    .where(certificates.c.host_id == hosts.c.id)
    .order_by(certificates.c.issued_ns.desc(), certificates.c.serial)
    .limit(1)
    .correlate(hosts)
    .scalar_subquery()
)
_RECORDS: Final = (
    sa.select(
        hosts,
        health.c.received_ns,
        health.c.version,
        health.c.address,
        health.c.report,
        certificates.c.serial,
        certificates.c.not_after,
        certificates.c.revoked_ns,
    )
    .select_from(hosts)
    .outerjoin(health, health.c.host_id == hosts.c.id)
    .outerjoin(certificates, certificates.c.serial == _NEWEST)
)


def _report(text: str | None) -> HealthReport | None:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=HealthReport)
    except UNDECODABLE:
        # An older or newer version's; the next report replaces it.
        return None


def _record(row: sa.Row[Any]) -> HostRecord:
    certificate = None
    if row.serial is not None:
        certificate = HostCertificate(row.serial, row.not_after, row.revoked_ns is not None)
    return HostRecord(
        id=HostId(row.id),
        name=HostName(row.name),
        tags=tuple(row.tags),
        enrolled_ns=row.enrolled_ns,
        removed_ns=row.removed_ns,
        last_seen_ns=row.received_ns,
        version=row.version,
        address=row.address,
        certificate=certificate,
        report=_report(row.report),
    )


def insert_host(
    connection: sa.Connection,
    host_id: HostId,
    name: HostName,
    *,
    tags: Sequence[str],
    token_id: str,
    address: str,
    now_ns: int,
) -> None:
    """Enter a new host.

    Raises:
        HostNameTakenError: an enrolled host has the name, in whatever case.
    """
    try:
        connection.execute(
            sa.insert(hosts).values(
                id=host_id,
                name=name,
                name_key=name.lower(),
                tags=list(tags),
                token_id=token_id,
                enrolled_ns=now_ns,
            )
        )
    except IntegrityError as error:
        raise HostNameTakenError(name) from error
    connection.execute(sa.insert(health).values(host_id=host_id, address=printable(address)))


def lock_host(connection: sa.Connection, host_id: HostId) -> bool:
    """Hold a host's row until the transaction ends. Returns whether the host is enrolled."""
    query = sa.select(hosts.c.removed_ns).where(hosts.c.id == host_id).with_for_update()
    row = connection.execute(query).one_or_none()
    return row is not None and row.removed_ns is None


def list_hosts(connection: sa.Connection, *, removed: bool = False) -> list[HostRecord]:
    """Every enrolled host by name, and the removed ones too if asked for."""
    query = _RECORDS.order_by(hosts.c.name_key, hosts.c.enrolled_ns)
    if not removed:
        query = query.where(hosts.c.removed_ns.is_(None))
    return [_record(row) for row in connection.execute(query)]


def find_host(connection: sa.Connection, reference: str) -> HostRecord:
    """A host by its id, or an enrolled one by its name.

    The id goes first: a host that calls itself by another's id does not become it.

    Raises:
        HostNotFoundError: there is none.
    """
    by_name = sa.and_(hosts.c.name_key == reference.lower(), hosts.c.removed_ns.is_(None))
    for condition in (hosts.c.id == reference.lower(), by_name):
        row = connection.execute(_RECORDS.where(condition)).one_or_none()
        if row is not None:
            return _record(row)
    raise HostNotFoundError(reference)


def mark_removed(connection: sa.Connection, host_id: HostId, now_ns: int) -> None:
    """Remove a host: frees its name and forgets its health."""
    connection.execute(sa.update(hosts).where(hosts.c.id == host_id).values(removed_ns=now_ns))
    connection.execute(sa.delete(health).where(health.c.host_id == host_id))


def printable(text: str, most: int = 64) -> str:
    """What a host says of itself, fit for a column and a terminal: ASCII, so many characters."""
    return _UNPRINTABLE.sub("?", text[:most])
