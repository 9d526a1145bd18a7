"""The fleet's service beside a model of it: any order of any messages, at any time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

import hypothesis
import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from sib_protocol.keys import make_csr, new_key
from sib_protocol.messages import CertificateAnswer, EnrollRequest, RenewExpired, RenewRequest
from sib_server.errors import RefusedError, TooManyAttemptsError
from sib_server.fleet.hosts import HostNameTakenError, HostNotFoundError
from sib_server.fleet.limits import Rate
from sib_server.fleet.policy import FleetPolicy
from sib_server.fleet.refusals import (
    ExpiredCertificateError,
    GraceOverError,
    RemovedHostError,
    RevokedCertificateError,
    SupersededCertificateError,
    UnknownCertificateError,
)
from sib_server.pki.authority import Authority
from sib_server.pki.ledger import CertificateNotFoundError
from sib_server.pki.tokens import (
    NewToken,
    TokenExpiredError,
    TokenReplayedError,
    TokenRevokedError,
    TokenSecretError,
    TokenUnknownError,
    TokenUsedUpError,
)
from sib_server.state.database import StateDatabase
from sib_server.state.schema import metadata
from tests.support.fleet import Member, World, enroll_request, expired_request

HOUR = 3600 * 10**9
DAY = 24 * HOUR
GRACE = 30 * 86_400
rarely = st.integers(0, 5).map(lambda drawn: drawn == 5)
WIDE_OPEN = FleetPolicy(each=Rate(1e9, 1e9), together=Rate(1e9, 1e9))


@dataclass(eq=False)
class ModelToken:
    made: NewToken
    left: int
    expires: int
    revoked: bool = False
    forgotten: bool = False

    def refusal(self, now: int) -> type[RefusedError] | None:
        if self.revoked:
            return TokenRevokedError
        if now >= self.expires:
            return TokenExpiredError
        return None if self.left else TokenUsedUpError


@dataclass(eq=False)
class ModelHost:
    id: str
    name: str
    removed: bool = False
    certificates: list[ModelCertificate] = field(default_factory=list)


@dataclass(eq=False)
class ModelCertificate:
    host: ModelHost
    member: Member
    issued: int
    request: EnrollRequest | RenewRequest | RenewExpired
    source: ModelCertificate | ModelToken
    first_used: int | None = None
    revoked: bool = False
    forgotten: bool = False

    @property
    def not_after(self) -> int:
        return self.issued // 10**9 + 7 * 86_400

    def standing(self) -> type[RefusedError] | None:
        if self.forgotten:
            return UnknownCertificateError
        if self.host.removed:
            return RemovedHostError
        return RevokedCertificateError if self.revoked else None

    def authentication(self, now: int) -> type[RefusedError] | None:
        expired = ExpiredCertificateError if now >= self.not_after * 10**9 else None
        return self.standing() or expired

    def succession(self, now: int) -> type[RefusedError] | None:
        known = [other for other in self.host.certificates if not other.forgotten]
        for other in known:
            if (
                other.issued > self.issued
                and other.first_used is not None
                and other.first_used <= now - HOUR
            ):
                return SupersededCertificateError
        if sum(other.issued >= now - DAY for other in known) >= 24:
            return TooManyAttemptsError
        return None


class FleetMachine(RuleBasedStateMachine):
    tokens = Bundle("tokens")
    certificates = Bundle("certificates")

    def __init__(self, state: StateDatabase, authority: Authority) -> None:
        super().__init__()
        with state.begin() as connection:
            for table in reversed(metadata.sorted_tables):
                connection.execute(sa.delete(table))
        self.world = World(state, authority, WIDE_OPEN)
        # Only SQLite can be asked without waiting.
        self.kept = state.engine.dialect.name == "sqlite"
        self.all_tokens: list[ModelToken] = []
        self.hosts: list[ModelHost] = []

    @property
    def now(self) -> int:
        return self.world.clock.ns

    def outcome(
        self, wanted: type[RefusedError] | None, act: Callable[[], CertificateAnswer]
    ) -> CertificateAnswer | None:
        if wanted is None:
            return act()
        with pytest.raises(wanted) as caught:
            act()
        assert caught.type is wanted
        return None

    def tick(self) -> None:
        self.world.clock.ns += 10**6

    def issued(
        self,
        host: ModelHost,
        member: Member,
        request: EnrollRequest | RenewRequest | RenewExpired,
        source: ModelCertificate | ModelToken,
    ) -> ModelCertificate:
        certificate = ModelCertificate(host, member, self.now, request, source)
        assert member.id == host.id
        assert int(member.certificate.not_valid_after_utc.timestamp()) == certificate.not_after
        host.certificates.append(certificate)
        return certificate

    @initialize(target=tokens)
    def first_token(self) -> ModelToken:
        return self.new_token(timedelta(days=60), 6)

    @rule(
        target=tokens,
        ttl=st.sampled_from([timedelta(minutes=30), timedelta(days=60)]),
        uses=st.integers(1, 3),
    )
    def make_token(self, ttl: timedelta, uses: int) -> ModelToken:
        return self.new_token(ttl, uses)

    def new_token(self, ttl: timedelta, uses: int) -> ModelToken:
        self.tick()
        for token in self.all_tokens:
            token.forgotten |= token.expires < self.now - 30 * DAY
        made = self.world.tokens.create(ttl=ttl, uses=uses)
        token = ModelToken(made, uses, self.now + int(ttl.total_seconds()) * 10**9)
        self.all_tokens.append(token)
        return token

    @rule(token=tokens, sure=rarely)
    def revoke_token(self, token: ModelToken, sure: bool) -> None:
        if sure and not token.forgotten:
            self.world.tokens.revoke(token.made.record.id)
            token.revoked = True

    @rule(
        target=certificates,
        token=tokens,
        name=st.sampled_from(["web", "WEB", "db", "mail"]),
        knows_secret=st.sampled_from([True, True, True, False]),
    )
    def enroll(self, token: ModelToken, name: str, knows_secret: bool) -> object:
        self.tick()
        key = new_key()
        made = token.made if knows_secret else NewToken(token.made.record, "A" * 43)
        request = enroll_request(made, name, make_csr(key, name))
        wanted: type[RefusedError] | None
        if token.forgotten:
            wanted = TokenUnknownError
        elif not knows_secret:
            wanted = TokenSecretError
        else:
            wanted = token.refusal(self.now)
        taken = any(h.name.lower() == name.lower() and not h.removed for h in self.hosts)
        wanted = wanted or (HostNameTakenError if taken else None)
        answer = self.outcome(wanted, lambda: self.world.fleet.enroll(request, remote="192.0.2.1"))
        if answer is None:
            return multiple()
        token.left -= 1
        assert answer.host_id not in [host.id for host in self.hosts]
        host = ModelHost(answer.host_id, name)
        self.hosts.append(host)
        return self.issued(host, Member(key, answer), request, token)

    @rule(certificate=certificates)
    def use(self, certificate: ModelCertificate) -> None:
        self.tick()
        wanted = certificate.authentication(self.now)
        if wanted is not None:
            assert self.world.fleet.recognise_at_once(certificate.member.der) is None
            with pytest.raises(wanted):
                self.world.fleet.authenticate(certificate.member.der)
            return
        at_once = self.world.fleet.recognise_at_once(certificate.member.der)
        assert (at_once is not None) == (self.kept and certificate.first_used is not None)
        peer = self.world.fleet.authenticate(certificate.member.der)
        assert at_once in {None, peer}
        assert (peer.host_id, peer.host_name) == (certificate.host.id, certificate.host.name)
        certificate.first_used = certificate.first_used or self.now

    def _renewed(
        self,
        old: ModelCertificate,
        key: object,
        request: RenewRequest | RenewExpired,
        wanted: type[RefusedError] | None,
    ) -> object:
        def act() -> CertificateAnswer:
            if isinstance(request, RenewExpired):
                return self.world.fleet.renew_expired(request, remote="192.0.2.1")
            return self.world.fleet.renew(self.world.fleet.authenticate(old.member.der), request)

        if isinstance(request, RenewRequest) and old.authentication(self.now) is None:
            old.first_used = old.first_used or self.now
        answer = self.outcome(wanted, act)
        if answer is None:
            return multiple()
        for other in old.host.certificates:
            other.forgotten |= other.not_after < self.now // 10**9 - GRACE
        return self.issued(old.host, Member(key, answer), request, old)  # type: ignore[arg-type]

    @rule(target=certificates, old=certificates, in_use=st.booleans())
    def renew(self, old: ModelCertificate, in_use: bool) -> object:
        self.tick()
        key = new_key()
        wanted = old.authentication(self.now) or old.succession(self.now)
        new = self._renewed(old, key, RenewRequest(csr=make_csr(key, "x")), wanted)
        if in_use and isinstance(new, ModelCertificate):
            self.use(new)
        return new

    def _expired_refusal(self, old: ModelCertificate) -> type[RefusedError] | None:
        over = self.now >= (old.not_after + GRACE) * 10**9
        return old.standing() or (GraceOverError if over else None)

    @rule(target=certificates, old=certificates)
    def renew_expired(self, old: ModelCertificate) -> object:
        self.tick()
        key = new_key()
        wanted = self._expired_refusal(old) or old.succession(self.now)
        return self._renewed(old, key, expired_request(old.member, key), wanted)

    @rule(target=certificates, again=certificates)
    def replay(self, again: ModelCertificate) -> object:
        """The very message that got a certificate, sent once more."""
        self.tick()
        request, source = again.request, again.source
        if isinstance(request, EnrollRequest):
            assert isinstance(source, ModelToken)
            known = [c for h in self.hosts for c in h.certificates if c.request is request]
            # A request whose certificate is long forgotten meets the key's other guards.
            known_error = TokenUnknownError if source.forgotten else TokenReplayedError
            if all(certificate.forgotten for certificate in known):
                return multiple()
            self.outcome(known_error, lambda: self.world.fleet.enroll(request, remote="192.0.2.1"))
            return multiple()
        assert isinstance(source, ModelCertificate)
        if isinstance(request, RenewExpired):
            refused = self._expired_refusal(source)
        else:
            refused = source.authentication(self.now)
        made = [
            certificate
            for certificate in source.host.certificates
            if certificate.request is request and not certificate.forgotten
        ]
        newest = made[-1] if made else None
        if refused is None and newest is not None and newest.revoked:
            refused = RevokedCertificateError
        elif refused is None and newest is not None and self.now < newest.not_after * 10**9:
            self._same_answer(source, newest, request)
            return multiple()
        wanted = refused or source.succession(self.now)
        return self._renewed(source, again.member.key, request, wanted)

    def _same_answer(
        self,
        source: ModelCertificate,
        newest: ModelCertificate,
        request: RenewRequest | RenewExpired,
    ) -> None:
        if isinstance(request, RenewExpired):
            answer = self.world.fleet.renew_expired(request, remote="192.0.2.1")
        else:
            peer = self.world.fleet.authenticate(source.member.der)
            source.first_used = source.first_used or self.now
            answer = self.world.fleet.renew(peer, request)
        assert answer == newest.member.answer

    @rule(certificate=certificates, sure=rarely)
    def revoke_certificate(self, certificate: ModelCertificate, sure: bool) -> None:
        self.tick()
        if not sure:
            return
        if certificate.forgotten:
            with pytest.raises(CertificateNotFoundError):
                self.world.fleet.revoke_certificate(certificate.member.serial)
            return
        self.world.fleet.revoke_certificate(certificate.member.serial)
        certificate.revoked = True
        with pytest.raises((RevokedCertificateError, RemovedHostError)):
            self.world.fleet.authenticate(certificate.member.der)

    @rule(certificate=certificates, sure=rarely)
    def remove_host(self, certificate: ModelCertificate, sure: bool) -> None:
        self.tick()
        if not sure:
            return
        host = certificate.host
        if host.removed:
            with pytest.raises(HostNotFoundError):
                self.world.fleet.remove_host(host.id)
            return
        live = [c for c in host.certificates if not (c.revoked or c.forgotten)]
        assert self.world.fleet.remove_host(host.name).revoked == len(live)
        host.removed = True
        for other in live:
            other.revoked = True

    @rule(
        # Mostly short: a fleet whose certificates are all dead shows little.
        hours=st.sampled_from([0.5, 1, 1, 2, 3, 24, 24 * 3, 24 * 8, 24 * 31]),
    )
    def pass_time(self, hours: float) -> None:
        self.world.clock.pass_(hours=hours)

    @invariant()
    def registry_and_tokens_agree(self) -> None:
        enrolled = sorted((host.name.lower(), host.id) for host in self.hosts if not host.removed)
        found = self.world.fleet.hosts()
        assert [(host.name.lower(), host.id) for host in found] == enrolled
        known = {t.made.record.id: t.left for t in self.all_tokens if not t.forgotten}
        assert {token.id: token.uses_left for token in self.world.tokens.list()} == known


def test_the_service_does_what_its_model_does(state: StateDatabase, authority: Authority) -> None:
    run_state_machine_as_test(
        partial(FleetMachine, state, authority),  # type: ignore[arg-type]  # any factory does
        settings=hypothesis.settings(
            max_examples=60,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )


def test_the_ledger_holds_what_was_answered(world: World) -> None:
    answer = world.join("web").answer
    certificate = x509.load_pem_x509_certificate(answer.certificate.encode())
    pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
    assert pem == answer.certificate
    assert x509.load_pem_x509_certificate(answer.ca.encode()) == world.authority.certificate
