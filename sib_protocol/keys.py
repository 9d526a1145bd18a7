"""Keys, certificate requests and proofs of possession, for the host's side and tests."""

from __future__ import annotations

import base64
import hashlib

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sib_protocol.errors import MalformedMessageError
from sib_protocol.messages import proof_text


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh ECDSA P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as unencrypted PKCS #8 PEM; the caller sees to the file's mode."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Read what :func:`key_pem` wrote.

    Raises:
        MalformedMessageError: not a P-256 private key.
    """
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MalformedMessageError(f"not a private key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise MalformedMessageError("not a P-256 private key")
    return key


def make_csr(key: ec.EllipticCurvePrivateKey, name: str) -> str:
    """A certificate request, PEM. The server takes only the key and the proof from it."""
    # X.509 ends a common name at 64 characters; the server names the host itself anyway.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    request = (
        x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    )
    return request.public_bytes(serialization.Encoding.PEM).decode()


def sign_proof(old_key: ec.EllipticCurvePrivateKey, csr: str) -> str:
    """The old key's word for a new request; see :class:`~sib_protocol.messages.RenewExpired`."""
    signature = old_key.sign(proof_text(csr), ec.ECDSA(hashes.SHA256()))
    return base64.b64encode(signature).decode()


def verify_proof(certificate: x509.Certificate, csr: str, proof: str) -> bool:
    """Whether the certificate's key made the proof."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    try:
        key.verify(
            base64.b64decode(proof, validate=True), proof_text(csr), ec.ECDSA(hashes.SHA256())
        )
    except (InvalidSignature, ValueError):
        return False
    return True


def certificate_pin(certificate: x509.Certificate) -> str:
    """SHA-256 of a certificate's DER, lower-case hex; what a token pins."""
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()
