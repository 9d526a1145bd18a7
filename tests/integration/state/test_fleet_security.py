"""Who is not let in. Each case of the issue's list that lives in the fleet's service."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from sib_protocol.ids import HostName
from sib_protocol.keys import make_csr, new_key, sign_proof
from sib_protocol.messages import RenewExpired, RenewRequest
from sib_server.errors import RefusedError, TooManyAttemptsError
from sib_server.fleet.enrollment import BadCertificateError
from sib_server.fleet.limits import Rate
from sib_server.fleet.policy import FleetPolicy
from sib_server.fleet.refusals import (
    ExpiredCertificateError,
    GraceOverError,
    KeyTakenError,
    ProofError,
    RemovedHostError,
    RevokedCertificateError,
    SupersededCertificateError,
    UnknownCertificateError,
)
from sib_server.pki.authority import Authority
from sib_server.pki.certificates import build_root
from sib_server.pki.ledger import find_by_serial
from sib_server.pki.peer import NotAHostCertificateError
from sib_server.pki.requests import CertificateRequestError, KeyKindError, read_request
from sib_server.pki.tokens import (
    TokenExpiredError,
    TokenReplayedError,
    TokenRevokedError,
    TokenSecretError,
    TokenUnknownError,
    TokenUsedUpError,
)
from sib_server.state.database import StateDatabase
from tests.support.fleet import START, World, enroll_request, expired_request

REMOTE = "192.0.2.1"


def _csr(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey,
    subject: x509.Name | None = None,
    algorithm: hashes.HashAlgorithm | None = None,
) -> str:
    request = x509.CertificateSigningRequestBuilder().subject_name(subject or x509.Name([]))
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        algorithm = algorithm or hashes.SHA256()
    return request.sign(key, algorithm).public_bytes(serialization.Encoding.PEM).decode()  # type: ignore[arg-type]


# --- tokens


def test_a_replayed_token(world: World) -> None:
    token = world.token(uses=5)
    request = enroll_request(token, "web-1", make_csr(new_key(), "web-1"))
    world.fleet.enroll(request, remote=REMOTE)
    with pytest.raises(TokenReplayedError, match="web-1") as caught:
        world.fleet.enroll(request, remote=REMOTE)
    assert caught.value.code == "token_replayed"
    renamed = msgspec.structs.replace(request, host_name="web-2")
    with pytest.raises(TokenReplayedError):
        world.fleet.enroll(renamed, remote=REMOTE)
    # Nor once the host is gone.
    world.fleet.remove_host("web-1")
    with pytest.raises(TokenReplayedError):
        world.fleet.enroll(request, remote=REMOTE)
    assert world.tokens.list()[0].uses_left == 4
    assert len(world.fleet.hosts()) == 0


def test_an_expired_token(world: World) -> None:
    token = world.token(ttl=timedelta(minutes=30))
    world.clock.pass_(minutes=30)
    with pytest.raises(TokenExpiredError, match=token.record.id):
        world.join("web-1", token)


def test_a_used_up_token(world: World) -> None:
    token = world.token(uses=1)
    world.join("web-1", token)
    with pytest.raises(TokenUsedUpError, match=token.record.id):
        world.join("web-2", token)
    assert [host.name for host in world.fleet.hosts()] == ["web-1"]


def test_a_revoked_token(world: World) -> None:
    token = world.token()
    world.tokens.revoke(token.record.id)
    with pytest.raises(TokenRevokedError, match=token.record.id):
        world.join("web-1", token)


def test_what_is_wrong_with_a_token_is_told_only_to_who_knows_its_secret(world: World) -> None:
    token = world.token()
    world.tokens.revoke(token.record.id)
    with pytest.raises(TokenSecretError) as wrong:
        world.join("web-1", replace(token, secret="A" * 43))
    with pytest.raises(TokenUnknownError) as unknown:
        world.join("web-1", replace(token, record=replace(token.record, id="0" * 16)))
    assert wrong.value.refusal() == unknown.value.refusal()
    assert wrong.value.refusal().error == "token_invalid"


def test_guessing_is_slowed_down_and_right_tokens_are_not_counted(
    state: StateDatabase, authority: Authority
) -> None:
    policy = FleetPolicy(each=Rate(5, 0.1), together=Rate(12, 1.0))
    world = World(state, authority, policy)
    good = world.token(uses=100)
    for number in range(20):
        world.join(f"host-{number}", good, remote="198.51.100.1")
    guess = replace(good, secret="A" * 43)

    def guesses(remote: str) -> int:
        seen: list[RefusedError] = []
        while not seen or isinstance(seen[-1], TokenSecretError):
            with pytest.raises((TooManyAttemptsError, TokenSecretError)) as caught:
                world.join("x", guess, remote=remote)
            seen.append(caught.value)
            assert len(seen) < 100
        assert seen[-1].status == 429
        assert (seen[-1].retry_after or 0) > 0
        return len(seen) - 1

    assert guesses("203.0.113.1") == 5
    # A network of 64 bits is one attacker.
    assert guesses("2001:db8::1") == 5
    assert guesses("2001:db8::ffff:2") == 0
    # All together have 12.
    assert guesses("203.0.113.2") == 2
    assert guesses("203.0.113.3") == 0
    world.clock.pass_(seconds=10)
    assert guesses("203.0.113.1") == 1
    # The same door is before renewals without TLS.
    with pytest.raises(TooManyAttemptsError):
        world.fleet.renew_expired(RenewExpired("", "", ""), remote="203.0.113.1")


# --- certificate requests


def _tampered(csr: str) -> str:
    der = bytearray(
        base64.b64decode("".join(csr.splitlines()[1:-1])),
    )
    der[-3] ^= 1
    body = base64.encodebytes(der).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n"


def _bad_requests() -> dict[str, tuple[str, type[RefusedError]]]:
    return {
        "empty": ("", CertificateRequestError),
        "not PEM": ("hello", CertificateRequestError),
        "surrogate": ("\ud800", CertificateRequestError),
        "huge": (make_csr(new_key(), "x") + " " * 20_000, CertificateRequestError),
        "tampered": (_tampered(make_csr(new_key(), "x")), CertificateRequestError),
        "SHA-512": (_csr(new_key(), algorithm=hashes.SHA512()), CertificateRequestError),
        "P-384": (_csr(ec.generate_private_key(ec.SECP384R1())), KeyKindError),
        "secp256k1": (_csr(ec.generate_private_key(ec.SECP256K1())), KeyKindError),
        "RSA": (_csr(rsa.generate_private_key(65537, 2048)), KeyKindError),
        "Ed25519": (_csr(ed25519.Ed25519PrivateKey.generate()), KeyKindError),
    }


def test_bad_certificate_requests_are_refused_everywhere_and_spend_nothing(world: World) -> None:
    member = world.join("web-0")
    peer = world.fleet.authenticate(member.der)
    token = world.token()
    for name, (csr, wanted) in _bad_requests().items():
        with pytest.raises(wanted) as caught:
            world.fleet.enroll(enroll_request(token, "web-1", csr), remote=name)
        assert caught.value.status == 400, name
        with pytest.raises(wanted):
            world.fleet.renew(peer, RenewRequest(csr=csr))
        if name == "surrogate":
            continue
        proof = sign_proof(member.key, csr)
        with pytest.raises(wanted):
            world.fleet.renew_expired(
                RenewExpired(member.answer.certificate, csr, proof), remote=name
            )
    assert [host.name for host in world.fleet.hosts()] == ["web-0"]
    world.join("web-1", token)


def test_a_hostile_subject_and_extensions_are_not_taken_over(world: World) -> None:
    victim = world.join("victim")
    key = new_key()
    names = x509.SubjectAlternativeName(
        [
            x509.UniformResourceIdentifier(f"urn:sib:host:{victim.id}"),
            x509.DNSName("*.example.com"),
        ]
    )
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(
            x509.Name(
                [
                    x509.NameAttribute(NameOID.COMMON_NAME, "victim"),
                    x509.NameAttribute(NameOID.ORGANIZATION_NAME, "\x1b[2J'; DROP TABLE hosts;--"),
                ]
            )
        )
        .add_extension(names, critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    csr = request.public_bytes(serialization.Encoding.PEM).decode()
    answer = world.fleet.enroll(enroll_request(world.token(), "evil", csr), remote=REMOTE)
    made = x509.load_pem_x509_certificate(answer.certificate.encode())
    assert made.subject.rfc4514_string() == "CN=evil"
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    uris = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in uris] == [
        f"urn:sib:host:{answer.host_id}",
        "urn:sib:name:evil",
    ]
    assert answer.host_id != victim.id
    der = made.public_bytes(serialization.Encoding.DER)
    assert world.fleet.authenticate(der).host_name == "evil"


# --- certificates


def test_a_foreign_cas_certificate_even_with_a_known_serial(world: World, tmp_path: Path) -> None:
    member = world.join("web-1")
    foreign = Authority.create(tmp_path / "foreign", "Test CA", now=START)
    request = read_request(make_csr(new_key(), "x"))
    forged = foreign.issue_host_certificate(request, member.id, HostName("web-1"), now=START)
    with pytest.raises(UnknownCertificateError) as caught:
        world.fleet.authenticate(forged.public_bytes(serialization.Encoding.DER))
    assert caught.value.status == 401
    # The same names, serial and dates as the genuine one, by another key.
    genuine, root_key = member.certificate, new_key()
    twin = (
        x509.CertificateBuilder()
        .subject_name(genuine.subject)
        .issuer_name(build_root(root_key, "Test CA", START).subject)
        .public_key(genuine.public_key())
        .serial_number(genuine.serial_number)
        .not_valid_before(genuine.not_valid_before_utc)
        .not_valid_after(genuine.not_valid_after_utc)
        .add_extension(
            genuine.extensions.get_extension_for_class(x509.SubjectAlternativeName).value,
            critical=False,
        )
        .sign(root_key, hashes.SHA256())
    )
    with pytest.raises(UnknownCertificateError):
        world.fleet.authenticate(twin.public_bytes(serialization.Encoding.DER))
    twin_pem = twin.public_bytes(serialization.Encoding.PEM).decode()
    csr = make_csr(new_key(), "x")
    with pytest.raises(UnknownCertificateError):
        world.fleet.renew_expired(
            RenewExpired(twin_pem, csr, sign_proof(member.key, csr)), remote=REMOTE
        )


@pytest.mark.parametrize("der", [b"", b"\x30\x03\x02\x01\x01", b"junk" * 100])
def test_what_is_not_a_certificate(world: World, der: bytes) -> None:
    with pytest.raises(NotAHostCertificateError):
        world.fleet.authenticate(der)


def test_the_servers_and_the_cas_own_certificates_are_no_hosts(world: World) -> None:
    server = world.authority.server_certificate(["localhost"], now=START).certificate
    for certificate in (server, world.authority.certificate):
        with pytest.raises(NotAHostCertificateError):
            world.fleet.authenticate(certificate.public_bytes(serialization.Encoding.DER))


def test_revoked_a_second_ago(world: World) -> None:
    member = world.join("web-1")
    peer = world.fleet.authenticate(member.der)
    spelt = ":".join(member.serial[at : at + 2] for at in range(0, len(member.serial), 2)).upper()
    revoked = world.fleet.revoke_certificate(spelt if len(member.serial) % 2 == 0 else "0" + spelt)
    assert revoked.serial == member.serial
    world.clock.pass_(seconds=1)
    with pytest.raises(RevokedCertificateError):
        world.fleet.authenticate(member.der)
    # A request that was let in before the revocation does not get past it either.
    with pytest.raises(RevokedCertificateError):
        world.fleet.renew(peer, RenewRequest(csr=make_csr(new_key(), "x")))
    with pytest.raises(RevokedCertificateError):
        world.fleet.renew_expired(expired_request(member, new_key()), remote=REMOTE)
    assert world.fleet.revoke_certificate(member.serial) == revoked


def test_another_instance_sees_a_revocation_at_once(state_url: str, authority: Authority) -> None:
    ours, theirs = StateDatabase(state_url), StateDatabase(state_url)
    ours.migrate()
    one, two = World(ours, authority), World(theirs, authority)
    member = one.join("web-1")
    assert two.fleet.authenticate(member.der).host_id == member.id
    one.fleet.remove_host("web-1")
    with pytest.raises(RemovedHostError):
        two.fleet.authenticate(member.der)
    ours.close()
    theirs.close()


def test_a_removed_host(world: World) -> None:
    member = world.join("web-1")
    peer = world.fleet.authenticate(member.der)
    world.fleet.remove_host("web-1")
    with pytest.raises(RemovedHostError):
        world.fleet.authenticate(member.der)
    with pytest.raises(RemovedHostError):
        world.fleet.renew(peer, RenewRequest(csr=make_csr(new_key(), "x")))
    with pytest.raises(RemovedHostError):
        world.fleet.renew_expired(expired_request(member, new_key()), remote=REMOTE)


def test_an_expired_certificate_on_a_connection_that_outlived_it(world: World) -> None:
    member = world.join("web-1")
    peer = world.fleet.authenticate(member.der)
    world.clock.pass_(days=7, seconds=-1)
    world.fleet.authenticate(member.der)
    world.clock.pass_(seconds=1)
    with pytest.raises(ExpiredCertificateError):
        world.fleet.authenticate(member.der)
    with pytest.raises(ExpiredCertificateError):
        world.fleet.renew(peer, RenewRequest(csr=make_csr(new_key(), "x")))


# --- renewal


def test_host_a_renewing_with_bs_key_or_claims(world: World) -> None:
    a, b = world.join("a"), world.join("b")
    peer = world.fleet.authenticate(a.der)
    # B's key in A's request, which A has seen but does not hold.
    with pytest.raises(KeyTakenError):
        world.fleet.renew(peer, RenewRequest(csr=make_csr(b.key, "b")))
    # B's id and name in A's request: the answer says A all the same.
    answer = world.fleet.renew(peer, RenewRequest(csr=make_csr(new_key(), "b")))
    assert (answer.host_id, answer.host_name) == (a.id, "a")
    # B's serial under A's id.
    with pytest.raises(UnknownCertificateError):
        world.fleet.renew(
            replace(peer, serial=b.serial), RenewRequest(csr=make_csr(new_key(), "a"))
        )
    # A host that enrolls anew with B's key.
    with pytest.raises(KeyTakenError):
        world.fleet.enroll(enroll_request(world.token(), "c", make_csr(b.key, "c")), remote=REMOTE)


def test_proof_by_the_wrong_key_or_for_another_request(world: World) -> None:
    a, b = world.join("a"), world.join("b")
    world.clock.pass_(days=8)
    good = expired_request(b, new_key())
    bad = [
        expired_request(b, new_key(), prover=a.key),
        expired_request(b, new_key(), prover=new_key()),
        msgspec.structs.replace(good, csr=make_csr(new_key(), "x")),
        msgspec.structs.replace(good, certificate=a.answer.certificate),
        msgspec.structs.replace(good, proof=""),
        msgspec.structs.replace(good, proof="not base64!"),
        msgspec.structs.replace(good, proof="é"),
        msgspec.structs.replace(good, csr="\ud800"),
    ]
    for request in bad:
        with pytest.raises(ProofError):
            world.fleet.renew_expired(request, remote=REMOTE)
    assert world.fleet.renew_expired(good, remote=REMOTE).host_id == b.id


@pytest.mark.parametrize("certificate", ["", "junk", "\ud800", "-----BEGIN CERTIFICATE-----"])
def test_an_expired_certificate_that_is_none(world: World, certificate: str) -> None:
    with pytest.raises(BadCertificateError):
        world.fleet.renew_expired(RenewExpired(certificate, "", ""), remote=REMOTE)


def test_a_stranger_with_the_certificate_learns_nothing_of_the_host(world: World) -> None:
    member = world.join("web-1")
    world.fleet.remove_host("web-1")
    request = expired_request(member, new_key(), prover=new_key())
    with pytest.raises(ProofError):
        world.fleet.renew_expired(request, remote=REMOTE)


def test_expired_beyond_the_grace_period(world: World) -> None:
    member = world.join("web-1")
    world.clock.pass_(days=37, seconds=-1)
    inside = world.fleet.renew_expired(expired_request(member, new_key()), remote=REMOTE)
    assert inside.host_id == member.id
    world.clock.pass_(seconds=1)
    with pytest.raises(GraceOverError, match="30 days"):
        world.fleet.renew_expired(expired_request(member, new_key()), remote=REMOTE)


@pytest.mark.parametrize("expired", [False, True])
def test_a_copied_key_ends_when_the_hosts_new_certificate_is_in_use(
    world: World, expired: bool
) -> None:
    copied = world.join("web-1")
    world.clock.pass_(days=5)
    renewed = world.renew(copied)
    world.fleet.authenticate(renewed.der)
    # Within the hour, the host itself may still be going over.
    world.renew(copied)
    world.clock.pass_(days=3 if expired else 0, hours=1)

    def renew_with_the_copy() -> None:
        if expired:
            world.fleet.renew_expired(expired_request(copied, new_key()), remote=REMOTE)
        else:
            world.renew(copied)

    with pytest.raises(SupersededCertificateError, match="web-1"):
        renew_with_the_copy()
    assert world.renew(renewed).id == copied.id


def test_a_replay_does_not_bring_a_revoked_certificate_back(world: World) -> None:
    member = world.join("web-1")
    peer = world.fleet.authenticate(member.der)
    request = RenewRequest(csr=make_csr(new_key(), "x"))
    answer = world.fleet.renew(peer, request)
    made = x509.load_pem_x509_certificate(answer.certificate.encode())
    world.fleet.revoke_certificate(format(made.serial_number, "x"))
    with pytest.raises(RevokedCertificateError):
        world.fleet.renew(peer, request)


def test_first_use_is_noted_once(world: World) -> None:
    member = world.join("web-1")
    for _ in range(2):
        world.fleet.authenticate(member.der)
        with world.state.read() as connection:
            found = find_by_serial(connection, member.serial)
        assert found is not None
        assert found.first_used_ns == int(START.timestamp()) * 10**9
        world.clock.pass_(seconds=5)


def test_a_certificate_forgotten_in_the_middle_of_its_renewal(world: World) -> None:
    member = world.join("web-1")
    peer = world.fleet.authenticate(member.der)
    with pytest.raises(UnknownCertificateError):
        world.fleet.renew(replace(peer, serial="abc"), RenewRequest(csr=make_csr(new_key(), "x")))
