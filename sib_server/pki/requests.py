"""What the server takes from a certificate request: its key, and the proof that the host holds it.

Subject, extensions and attributes of a request are ignored: the host does not choose what its
certificate says.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sib_server.errors import BadRequestError
from sib_server.pki.peer import UNREADABLE

_MAX_REQUEST: Final = 16 * 1024


class CertificateRequestError(BadRequestError):
    """A certificate request that is broken or not by the key in it."""

    code = "bad_certificate_request"

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the certificate request cannot be used: {reason}",
            "let sib-agent make it: a P-256 key, PEM, signed with SHA-256 by that key",
        )
        self.reason = reason


class KeyKindError(CertificateRequestError):
    """A certificate request for another kind of key than ECDSA P-256."""

    code = "bad_key_kind"


@dataclass(frozen=True, slots=True)
class HostRequest:
    """A certificate request whose signature was verified.

    Attributes:
        public_key: P-256.
        request_digest: SHA-256 of the request's DER, hex; equal only for a replay.
        key_digest: :func:`key_digest` of the public key.
    """

    public_key: ec.EllipticCurvePublicKey
    request_digest: str
    key_digest: str


def key_digest(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of a public key's SubjectPublicKeyInfo, hex."""
    return hashlib.sha256(
        key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    ).hexdigest()


def read_request(csr_pem: str) -> HostRequest:
    """Verify a certificate request.

    Raises:
        CertificateRequestError: not a request, or not signed by its own key.
        KeyKindError: its key is not ECDSA P-256.
    """
    if len(csr_pem) > _MAX_REQUEST:
        raise CertificateRequestError(f"it is longer than {_MAX_REQUEST} characters")
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        key = request.public_key()
    except UnsupportedAlgorithm as error:
        raise KeyKindError("its key is of an unknown kind") from error
    except UNREADABLE as error:
        raise CertificateRequestError("it is not a PEM certificate request") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise KeyKindError("its key is not an ECDSA key")
    if not isinstance(key.curve, ec.SECP256R1):
        raise KeyKindError(f"its key is on the curve {key.curve.name}, not P-256")
    try:
        genuine = request.is_signature_valid and isinstance(
            request.signature_hash_algorithm, hashes.SHA256
        )
    except UNREADABLE:
        genuine = False
    if not genuine:
        raise CertificateRequestError("it is not signed with SHA-256 by the key in it")
    return HostRequest(
        public_key=key,
        request_digest=hashlib.sha256(request.public_bytes(serialization.Encoding.DER)).hexdigest(),
        key_digest=key_digest(key),
    )
