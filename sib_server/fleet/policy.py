"""What the fleet's service goes by, and what it says of hosts."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from sib_server.fleet.health import HealthLimits
from sib_server.fleet.limits import Rate

if TYPE_CHECKING:
    from sib_protocol.ids import HostId, HostName
    from sib_server.fleet.hosts import HostRecord


@dataclass(frozen=True, slots=True)
class FleetPolicy:
    """What the fleet's service goes by.

    Attributes:
        grace: how long after its end a certificate can still be renewed.
        health: from when on a host is late or silent.
        each: attempts to enroll or to renew an expired certificate, per address.
        together: the same, of all addresses.
    """

    grace: timedelta = timedelta(days=30)
    health: HealthLimits = field(default_factory=lambda: HealthLimits(90.0, 600.0))
    each: Rate = field(default_factory=lambda: Rate(burst=20, per_second=1 / 6))
    together: Rate = field(default_factory=lambda: Rate(burst=400, per_second=20))


@dataclass(frozen=True, slots=True)
class AuthenticatedHost:
    """Who a request comes from, as its certificate says and the ledger confirms.

    Attributes:
        host_id: UUID.
        host_name: the whole name.
        serial: of the certificate, lower-case hex.
        not_after: of the certificate, seconds since 1970 UTC.
        tags: from the token that enrolled the host.
    """

    host_id: HostId
    host_name: HostName
    serial: str
    not_after: int
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Removal:
    """What removing a host does or did.

    Attributes:
        host: as it was before.
        revoked: how many of its certificates that revokes.
    """

    host: HostRecord
    revoked: int
