"""The fleet's service: hosts enroll, renew, are recognised, report, and are removed.

All methods are synchronous and safe to call from many threads. Each is one transaction, so that a
crash at any instant leaves either all of it or nothing.

Renewal is idempotent: the same certificate request gets the same certificate again, which helps a
host whose answer was lost and is of no use to anyone without the key. A certificate can renew until
its successor has been in use for an hour (:data:`~sib_server.pki.ledger.SUPERSEDED_AFTER_NS`): so a
host that lost answers can always go on, and a copied key ends at the latest when its certificate
does. The same holds for expired certificates inside the grace period.
"""

from __future__ import annotations

import logging
import threading
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from sib_protocol.errors import MalformedMessageError
from sib_protocol.ids import HostId, HostName, new_host_id, parse_host_name
from sib_protocol.keys import verify_proof
from sib_protocol.messages import CertificateAnswer
from sib_server.errors import BadRequestError, RefusedError, TooManyAttemptsError
from sib_server.fleet import hosts as registry
from sib_server.fleet.health import HealthState, health_state
from sib_server.fleet.limits import AttemptLimiter
from sib_server.fleet.policy import FleetPolicy, Removal
from sib_server.fleet.recognition import Recognition, check_good, check_standing
from sib_server.fleet.refusals import (
    GraceOverError,
    KeyTakenError,
    ProofError,
    RevokedCertificateError,
    SupersededCertificateError,
    UnknownCertificateError,
)
from sib_server.fleet.reports import list_standings, store_reports
from sib_server.pki import ledger
from sib_server.pki.peer import UNREADABLE
from sib_server.pki.requests import HostRequest, read_request
from sib_server.pki.tokens import TokenReplayedError, spend_token, verify_token

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import sqlalchemy as sa

    from sib_protocol.messages import EnrollRequest, RenewExpired, RenewRequest
    from sib_server.detection.bundles.rollout import HostStanding
    from sib_server.fleet.adoption import AdoptionWindow
    from sib_server.fleet.hosts import HostRecord
    from sib_server.fleet.policy import AuthenticatedHost
    from sib_server.fleet.reports import ReceivedReport
    from sib_server.pki.authority import Authority
    from sib_server.pki.ledger import IssuedCertificate
    from sib_server.state.database import StateDatabase

_LOG: Final = logging.getLogger(__name__)
_DAY_NS: Final = 24 * 3600 * 10**9
_MOST_A_DAY: Final = 24
_MAX_PEM: Final = 16 * 1024


class BadCertificateError(BadRequestError):
    """A text that should be a certificate and is not."""

    code = "bad_certificate"


class BadHostNameError(BadRequestError):
    """A name that no host can have."""

    code = "bad_host_name"


class Fleet:
    """The fleet's service.

    Args:
        state: the state database, migrated.
        authority: the CA.
        policy: see :class:`FleetPolicy`.
        clock: nanoseconds since 1970 UTC.
        monotonic: seconds, never going back; for the limits on attempts.
        adoption: which certificates a restored ledger takes in; ``None``: none.
    """

    def __init__(
        self,
        state: StateDatabase,
        authority: Authority,
        policy: FleetPolicy | None = None,
        *,
        clock: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
        adoption: AdoptionWindow | None = None,
    ) -> None:
        self._state = state
        self._authority = authority
        self._policy = policy or FleetPolicy()
        self._clock = clock
        self._monotonic = monotonic
        self._recognition = Recognition(
            state, authority.certificate, adoption=adoption, clock=clock
        )
        self._limiter = AttemptLimiter(self._policy.each, self._policy.together)
        self._limiter_lock = threading.Lock()

    def enroll(self, request: EnrollRequest, *, remote: str) -> CertificateAnswer:
        """Take a host in.

        Nothing is spent or stored unless all of it succeeds.

        Args:
            request: the host's message.
            remote: the address that it came from.

        Raises:
            RefusedError: TooManyAttemptsError, BadHostNameError, one of
                :mod:`~sib_server.pki.tokens`' or :mod:`~sib_server.pki.requests`',
                TokenReplayedError, KeyTakenError, HostNameTakenError, StateUnavailableError.
        """
        self._admit(remote, "enrollments")
        try:
            answer = self._enroll(request, remote)
        except RefusedError as error:
            cause = getattr(error, "cause", error.code)
            _LOG.warning("enrollment from %s refused: %s", registry.printable(remote), cause)
            raise
        self._forgive(remote)
        _LOG.info(
            "host %s enrolled as %s with token %s from %s",
            *(answer.host_name, answer.host_id, request.token_id, registry.printable(remote)),
        )
        return answer

    def _enroll(self, request: EnrollRequest, remote: str) -> CertificateAnswer:
        now = self._clock()
        with self._state.begin() as connection:
            token = verify_token(connection, request.token_id, request.secret)
            try:
                name = parse_host_name(request.host_name)
            except MalformedMessageError as error:
                raise BadHostNameError(error.problem, error.remedy) from error
            csr = read_request(request.csr)
            before = ledger.find_by_request(connection, csr.request_digest)
            if before is not None:
                raise TokenReplayedError(token.id, before.host_name)
            spend_token(connection, token, now)
            if ledger.key_belongs_to_another(connection, csr.key_digest, None):
                raise KeyTakenError
            host_id = new_host_id()
            registry.insert_host(
                connection,
                host_id,
                name,
                tags=token.tags,
                token_id=token.id,
                address=remote,
                now_ns=now,
            )
            return self._issue(connection, csr, host_id, name, now)

    def renew(self, peer: AuthenticatedHost, request: RenewRequest) -> CertificateAnswer:
        """Give a host its next certificate.

        Args:
            peer: from :meth:`authenticate`; the certificate says who renews, never the message.
            request: the host's message.

        Raises:
            RefusedError: CertificateRequestError, KeyTakenError, SupersededCertificateError,
                TooManyAttemptsError, StateUnavailableError, or those of :meth:`authenticate`.
        """
        csr = read_request(request.csr)
        now = self._clock()
        with self._state.begin() as connection:
            registry.lock_host(connection, peer.host_id)
            old = ledger.find_by_serial(connection, peer.serial)
            if old is None or old.host_id != peer.host_id:
                raise UnknownCertificateError(peer.serial)
            check_good(old, now)
            return self._succeed(connection, old, csr, now)

    def renew_expired(self, request: RenewExpired, *, remote: str) -> CertificateAnswer:
        """Give a host that slept past its certificate's end a new one.

        A certificate that has not ended yet will do, too: the proof is as good as the handshake.

        Raises:
            RefusedError: TooManyAttemptsError, BadCertificateError, UnknownCertificateError,
                ProofError, GraceOverError, or those of :meth:`renew`.
        """
        self._admit(remote, "renewals of expired certificates")
        old, csr = self._proven(request)
        now = self._clock()
        with self._state.begin() as connection:
            registry.lock_host(connection, old.host_id)
            current = ledger.find_by_serial(connection, old.serial)
            if current is None:
                raise UnknownCertificateError(old.serial)
            check_standing(current)
            if now >= (current.not_after + self._policy.grace.total_seconds()) * 10**9:
                raise GraceOverError(current.serial, self._policy.grace / timedelta(days=1))
            answer = self._succeed(connection, current, csr, now)
        self._forgive(remote)
        return answer

    def _proven(self, request: RenewExpired) -> tuple[IssuedCertificate, HostRequest]:
        # The proof goes before all that would tell a stranger how the host stands.
        try:
            # Cut, because what is longer is no certificate of ours anyway.
            pem = request.certificate[:_MAX_PEM].encode()
            certificate = x509.load_pem_x509_certificate(pem)
        except UNREADABLE as error:
            raise BadCertificateError("the expired certificate is not PEM") from error
        der = certificate.public_bytes(serialization.Encoding.DER)
        old = self._recognition.find(der)
        if old is None:
            raise UnknownCertificateError(format(certificate.serial_number, "x"))
        if not verify_proof(certificate, request.csr, request.proof):
            raise ProofError(old.serial)
        return old, read_request(request.csr)

    def _succeed(
        self, connection: sa.Connection, old: IssuedCertificate, csr: HostRequest, now: int
    ) -> CertificateAnswer:
        """The next certificate after an old one that was found to be good."""
        if ledger.key_belongs_to_another(connection, csr.key_digest, old.host_id):
            raise KeyTakenError
        before = ledger.find_by_request(connection, csr.request_digest)
        if before is not None and before.revoked_ns is not None:
            raise RevokedCertificateError(before.serial)
        if before is not None and now < before.not_after * 10**9:
            return self._answer(before.host_id, before.host_name, before.pem)
        if ledger.is_superseded(connection, old, now):
            _LOG.warning("host %s: renewal with a superseded certificate refused", old.host_name)
            raise SupersededCertificateError(old.serial, old.host_name)
        if ledger.issued_since(connection, old.host_id, now - _DAY_NS) >= _MOST_A_DAY:
            raise TooManyAttemptsError(f"certificates for host {old.host_name}", 3600.0)
        ended_before = now // 10**9 - int(self._policy.grace.total_seconds())
        ledger.forget_expired(connection, old.host_id, ended_before)
        return self._issue(connection, csr, old.host_id, old.host_name, now)

    def _issue(
        self, connection: sa.Connection, csr: HostRequest, host_id: HostId, name: HostName, now: int
    ) -> CertificateAnswer:
        at = datetime.fromtimestamp(now // 10**9, timezone.utc)
        certificate = self._authority.issue_host_certificate(csr, host_id, name, now=at)
        pem = ledger.record_issued(connection, certificate, host_id, csr, now)
        return self._answer(host_id, name, pem)

    def _answer(self, host_id: HostId, name: HostName, pem: str) -> CertificateAnswer:
        return CertificateAnswer(
            host_id=host_id, host_name=name, certificate=pem, ca=self._authority.certificate_pem
        )

    def authenticate(self, der: bytes) -> AuthenticatedHost:
        """Recognise a host; see :meth:`.recognition.Recognition.authenticate`."""
        return self._recognition.authenticate(der)

    def recognise_at_once(self, der: bytes) -> AuthenticatedHost | None:
        """The same without waiting; see :meth:`.recognition.Recognition.at_once`."""
        return self._recognition.at_once(der)

    def record_health(self, reports: Sequence[ReceivedReport]) -> None:
        """Keep hosts' reports, all or none; one that is older than what is known is dropped.

        Raises:
            StateUnavailableError: they could not be kept.
        """
        with self._state.begin(durable=False) as connection:
            store_reports(connection, reports)

    def hosts(self, *, removed: bool = False) -> list[HostRecord]:
        """Every enrolled host by name; the removed ones too if asked for."""
        with self._state.read() as connection:
            return registry.list_hosts(connection, removed=removed)

    def standings(self) -> list[HostStanding]:
        """How every enrolled host stands with bundles."""
        with self._state.read() as connection:
            return list_standings(connection)

    def host(self, reference: str) -> HostRecord:
        """A host by id or name.

        Raises:
            HostNotFoundError: there is none.
        """
        with self._state.read() as connection:
            return registry.find_host(connection, reference)

    def state_of(self, host: HostRecord) -> HealthState:
        """How a host is now."""
        return health_state(host.last_seen_ns, self._clock(), self._policy.health)

    def remove_host(self, reference: str, *, dry_run: bool = False) -> Removal:
        """Remove a host and revoke all its certificates, from the next request on.

        Args:
            reference: id or name.
            dry_run: only tell what it would do.

        Raises:
            HostNotFoundError: there is none, or it was removed before.
        """
        now = self._clock()
        with self._state.begin() as connection:
            host = registry.find_host(connection, reference)
            if not registry.lock_host(connection, host.id):
                raise registry.HostNotFoundError(reference)
            if dry_run:
                return Removal(host, ledger.count_unrevoked(connection, host.id))
            revoked = ledger.revoke_all(connection, host.id, now)
            registry.mark_removed(connection, host.id, now)
        _LOG.info("host %s (%s) removed", host.name, host.id)
        return Removal(host, revoked)

    def revoke_certificate(self, serial: str) -> IssuedCertificate:
        """Revoke one certificate, from the next request on; once more does no harm.

        A host whose certificate in force is revoked has to enroll again.

        Raises:
            CertificateNotFoundError: there is none with this serial number.
        """
        with self._state.begin() as connection:
            found = ledger.revoke_serial(connection, ledger.normal_serial(serial), self._clock())
        _LOG.info("certificate %s of host %s revoked", found.serial, found.host_name)
        return found

    def _admit(self, remote: str, what: str) -> None:
        with self._limiter_lock:
            wait = self._limiter.admit(remote, self._monotonic())
        if wait > 0.0:
            raise TooManyAttemptsError(what, wait)

    def _forgive(self, remote: str) -> None:
        with self._limiter_lock:
            self._limiter.forgive(remote, self._monotonic())
