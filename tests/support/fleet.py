"""A fleet with a clock that tests move, and hosts that hold their keys."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sib_protocol.ids import HostId
from sib_protocol.keys import make_csr, new_key, sign_proof
from sib_protocol.messages import (
    CertificateAnswer,
    EnrollRequest,
    HealthReport,
    RenewExpired,
    RenewRequest,
    SpoolHealth,
)
from sib_server.fleet.enrollment import Fleet
from sib_server.fleet.policy import FleetPolicy
from sib_server.pki.authority import Authority
from sib_server.pki.tokens import NewToken, TokenStore
from sib_server.state.database import StateDatabase

START = datetime(2026, 11, 25, 8, 0, tzinfo=timezone.utc)


class Clock:
    """Wall and monotonic clock in one."""

    def __init__(self) -> None:
        self.ns = int(START.timestamp()) * 10**9

    def __call__(self) -> int:
        return self.ns

    def monotonic(self) -> float:
        return self.ns / 1e9

    def pass_(self, **duration: float) -> None:
        self.ns += int(timedelta(**duration) / timedelta(microseconds=1)) * 1000


@dataclass(frozen=True)
class Member:
    """A host's own view: its key and what the server answered."""

    key: ec.EllipticCurvePrivateKey
    answer: CertificateAnswer

    @property
    def id(self) -> HostId:
        return HostId(self.answer.host_id)

    @property
    def certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.answer.certificate.encode())

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def serial(self) -> str:
        return format(self.certificate.serial_number, "x")


class World:
    def __init__(
        self, state: StateDatabase, authority: Authority, policy: FleetPolicy | None = None
    ) -> None:
        self.state = state
        self.authority = authority
        self.clock = Clock()
        self.tokens = TokenStore(state, clock=self.clock)
        self.fleet = Fleet(
            state, authority, policy, clock=self.clock, monotonic=self.clock.monotonic
        )

    def token(self, **wanted: object) -> NewToken:
        return self.tokens.create(**{"ttl": timedelta(hours=1), **wanted})  # type: ignore[arg-type]

    def join(self, name: str, token: NewToken | None = None, remote: str = "192.0.2.1") -> Member:
        key = new_key()
        request = enroll_request(token or self.token(), name, make_csr(key, name))
        return Member(key, self.fleet.enroll(request, remote=remote))

    def renew(self, member: Member) -> Member:
        """As an agent does: with the old certificate, then the new one in use."""
        key = new_key()
        peer = self.fleet.authenticate(member.der)
        answer = self.fleet.renew(peer, RenewRequest(csr=make_csr(key, "x")))
        return Member(key, answer)


def enroll_request(token: NewToken, name: str, csr: str) -> EnrollRequest:
    return EnrollRequest(token_id=token.record.id, secret=token.secret, host_name=name, csr=csr)


def expired_request(
    member: Member,
    new: ec.EllipticCurvePrivateKey,
    *,
    prover: ec.EllipticCurvePrivateKey | None = None,
) -> RenewExpired:
    csr = make_csr(new, "x")
    return RenewExpired(
        certificate=member.answer.certificate, csr=csr, proof=sign_proof(prover or member.key, csr)
    )


def health_report(version: str = "0.1.0", **more: object) -> HealthReport:
    spool = SpoolHealth(
        stream=str(uuid.uuid4()),
        next=10,
        acknowledged=7,
        bytes=4096,
        quota=1 << 20,
        oldest_seconds=1.5,
        lost=0,
    )
    return HealthReport(
        version=version,
        uptime_seconds=12.0,
        clock_ns=1,
        certificate_not_after=2,
        spool=spool,
        **more,  # type: ignore[arg-type]
    )
