"""How a host gets its identity: enrolling, renewing, and renewing after the certificate's end.

The only module of the agent that imports ``cryptography``; the daemon runs it in a process of its
own (:mod:`sib_agent.renewing`), so that its memory is given back.
"""

from __future__ import annotations

import ssl
import time
import warnings
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from urllib3.exceptions import InsecureRequestWarning

from sib_agent.client import (
    ServerClient,
    ServerRefusedError,
    ServerUnreachableError,
    may_mean_expired,
)
from sib_protocol.errors import ExitCode, MalformedMessageError, SibError
from sib_protocol.identity import (
    CERTIFICATE_FILE,
    KEY_FILE,
    Identity,
    IdentityStore,
    identity_context,
    server_trust,
)
from sib_protocol.ids import parse_host_id, parse_host_name
from sib_protocol.keys import (
    certificate_pin,
    key_pem,
    load_key,
    make_csr,
    new_key,
    sign_proof,
)
from sib_protocol.messages import (
    CertificateAnswer,
    EnrollRequest,
    RenewExpired,
    RenewRequest,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

    from sib_agent.client import Answer
    from sib_protocol.ids import HostName
    from sib_protocol.tokens import EnrollmentToken


class PinMismatchError(SibError):
    """Whoever answered is not the server that made the token."""

    exit_code = ExitCode.UNTRUSTED

    def __init__(self, server: str, expected: str, found: str) -> None:
        super().__init__(
            f"{server} is not the server that made this token: its CA is {found[:16]}…,"
            f" the token says {expected[:16]}…",
            "nothing was sent to it; make a new token on the right server, or find out who answers"
            " at this address",
        )
        self.server = server
        self.expected = expected
        self.found = found


class AlreadyEnrolledError(SibError):
    """The host has an identity."""

    exit_code = ExitCode.CONFLICT

    def __init__(self, identity: Identity) -> None:
        super().__init__(
            f"this host is enrolled already, as {identity.host_name} ({identity.host_id})",
            "to enroll it anew, remove it on the server ('sib-server host remove') and add --force",
        )
        self.identity = identity


class UnusableAnswerError(SibError):
    """A server's certificate that is not what was asked for."""

    exit_code = ExitCode.UNTRUSTED

    def __init__(self, reason: str) -> None:
        super().__init__(f"the server's answer cannot be used: {reason}")
        self.reason = reason


def fetch_ca(token: EnrollmentToken) -> str:
    """The CA of the server that made a token, PEM; proven by the token's pin.

    Nothing secret is sent before that. What came is not handed on but the one certificate that was
    proven: behind the right CA, which everybody may have, there may stand another one.

    Raises:
        PinMismatchError: another CA.
        ServerUnreachableError: no server answers.
        UnusableAnswerError: what comes is not a certificate.
    """
    client = ServerClient(token.servers, lambda: server_trust(None))
    try:
        with warnings.catch_warnings():
            # The pin says what a verified certificate would; a warning would only frighten.
            warnings.simplefilter("ignore", InsecureRequestWarning)
            text = client.get("/v1/ca").body.decode("ascii", "replace")
    finally:
        client.close()
    try:
        authority = x509.load_pem_x509_certificate(text.encode())
    except ValueError as error:
        raise UnusableAnswerError("it is not a CA certificate") from error
    found = certificate_pin(authority)
    if found != token.pin:
        raise PinMismatchError(token.servers[0], token.pin, found)
    return authority.public_bytes(serialization.Encoding.PEM).decode()


def enroll(token: EnrollmentToken, host_name: HostName, store: IdentityStore) -> Identity:
    """Join the server that made a token and put the identity in force.

    Raises:
        PinMismatchError: somebody else answers.
        ServerUnreachableError, ServerBusyError, ServerRefusedError: as they say.
        UnusableAnswerError: the certificate is not for our key or not by the pinned CA.
    """
    ca = fetch_ca(token)
    key = new_key()
    csr = make_csr(key, host_name)
    client = ServerClient(token.servers, lambda: server_trust(ca))
    try:
        answer = client.post_message(
            "/v1/enroll", EnrollRequest(token.id, token.secret, host_name, csr)
        )
    finally:
        client.close()
    return _keep(answer, key, token.servers, store, trusted=ca, pinned=None)


def renew(store: IdentityStore) -> Identity:
    """Get the next certificate, with a new key, and put it in force.

    By mutual TLS while the certificate is good; by a proof of the old key once it has ended.

    Raises:
        NotEnrolledError: there is nothing to renew.
        ServerUnreachableError, ServerBusyError, ServerRefusedError: as they say.
        UnusableAnswerError: see :func:`enroll`.
    """
    identity = store.load()
    generation = store.current.resolve()
    old_key = load_key((generation / KEY_FILE).read_bytes())
    key = new_key()
    csr = make_csr(key, identity.host_name)
    if time.time() < identity.not_after:
        try:
            answer = _renew_by_tls(identity, store, csr)
        except (ServerRefusedError, ServerUnreachableError) as error:
            # This clock may be wrong: what the server takes for expired is expired.
            if not may_mean_expired(error):
                raise
            answer = _renew_by_proof(identity, store, csr, old_key)
    else:
        answer = _renew_by_proof(identity, store, csr, old_key)
    ca = (generation / "ca.pem").read_text(encoding="ascii")
    pinned = store.bundle_root()
    return _keep(answer, key, identity.servers, store, trusted=ca, pinned=pinned)


def _renew_by_tls(identity: Identity, store: IdentityStore, csr: str) -> Answer:
    client = ServerClient(identity.servers, lambda: identity_context(store))
    try:
        return client.post_message("/v1/renew", RenewRequest(csr))
    finally:
        client.close()


def _renew_by_proof(
    identity: Identity, store: IdentityStore, csr: str, old_key: ec.EllipticCurvePrivateKey
) -> Answer:
    generation = store.current.resolve()
    certificate = (generation / CERTIFICATE_FILE).read_text(encoding="ascii")
    client = ServerClient(identity.servers, lambda: server_trust(generation / "ca.pem"))
    try:
        return client.post_message(
            "/v1/renew-expired", RenewExpired(certificate, csr, sign_proof(old_key, csr))
        )
    finally:
        client.close()


def _keep(
    answer: Answer,
    key: ec.EllipticCurvePrivateKey,
    servers: tuple[str, ...],
    store: IdentityStore,
    *,
    trusted: str,
    pinned: bytes | None,
) -> Identity:
    """Put an answer in force.

    The root of bundles is taken from a server once, when the host enrolls, and from then on only
    from what that root has signed: whoever holds the server's TLS key later cannot replace it.
    """
    message = answer.decode(CertificateAnswer)
    offered = message.bundle_root.encode() if message.bundle_root is not None else None
    identity = check_answer(message, key, servers, trusted=trusted, now=int(time.time()))
    store.store(
        identity,
        key=key_pem(key),
        certificate=message.certificate.encode(),
        ca=message.ca.encode(),
        bundle_root=pinned if pinned is not None else offered,
    )
    return identity


def check_answer(
    message: CertificateAnswer,
    key: ec.EllipticCurvePrivateKey,
    servers: tuple[str, ...],
    *,
    trusted: str,
    now: int,
) -> Identity:
    """Describe a new certificate, if it is what was asked for.

    Args:
        message: the server's.
        key: the one the request was made with.
        servers: the identity's.
        trusted: the CA that is trusted already, PEM; the certificate must be by it.
        now: seconds since 1970 UTC, by the host's clock.

    Raises:
        UnusableAnswerError: it is not.
    """
    try:
        certificate = x509.load_pem_x509_certificate(message.certificate.encode())
        authority = x509.load_pem_x509_certificate(trusted.encode())
        host_id, host_name = parse_host_id(message.host_id), parse_host_name(message.host_name)
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=message.ca)
        certificate.verify_directly_issued_by(authority)
    except MalformedMessageError as error:
        raise UnusableAnswerError(error.problem) from error
    except Exception as error:
        raise UnusableAnswerError("its certificate is not by the trusted CA") from error
    if certificate.public_key() != key.public_key():
        raise UnusableAnswerError("its certificate is for another key")
    return Identity(
        host_id=host_id,
        host_name=host_name,
        servers=servers,
        serial=format(certificate.serial_number, "x"),
        not_before=int(certificate.not_valid_before_utc.timestamp()),
        not_after=int(certificate.not_valid_after_utc.timestamp()),
        issued=now,
    )
