from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from sib_protocol.errors import MalformedMessageError
from sib_protocol.ids import HostName, new_host_id
from sib_protocol.keys import (
    certificate_pin,
    key_pem,
    load_key,
    make_csr,
    new_key,
    sign_proof,
    verify_proof,
)
from sib_server.pki.authority import Authority
from sib_server.pki.requests import read_request


def pem_of(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey,
) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def test_keys_there_and_back() -> None:
    key = new_key()
    assert load_key(key_pem(key)).private_numbers() == key.private_numbers()


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"x",
        pem_of(ec.generate_private_key(ec.SECP384R1())),
        pem_of(ed25519.Ed25519PrivateKey.generate()),
        new_key().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        ),
        # P-256's identifier with a number that names no curve.
        base64.b64decode(
            "LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0tCk1JR0hBZ0VBTUJNR0J5cUdTTTQ5QWdFR0NDcUdTTTQ5QXdVSEJH"
            "MHdhd0lCQVFRZ2JRaU9nM2Nwd2R3WDBpVVlJQm5EQXJhYlNUQkx1c3lOc0JCei8wdz09Ci0tLS0tRU5EIFBSSVZB"
            "VEUgS0VZLS0tLS0K"
        ),
        pem_of(new_key()).replace(b"AgEG", b"AgEH"),
    ],
)
def test_what_is_no_key_of_ours(pem: bytes) -> None:
    with pytest.raises(MalformedMessageError, match="private key"):
        load_key(pem)


def test_a_proof_is_by_one_key_for_one_request(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, "unit")
    old, csr = new_key(), make_csr(new_key(), "n" * 200)
    certificate = authority.issue_host_certificate(
        read_request(make_csr(old, "x")), new_host_id(), HostName("x")
    )
    proof = sign_proof(old, csr)
    assert verify_proof(certificate, csr, proof)
    assert not verify_proof(certificate, make_csr(new_key(), "x"), proof)
    assert not verify_proof(certificate, csr, sign_proof(new_key(), csr))
    for odd in ("", "x", "é", proof[:-4], proof + "\n", "\ud800"):
        assert not verify_proof(certificate, csr, odd)
    assert len(certificate_pin(authority.certificate)) == 64


def test_a_certificate_of_another_kind_proves_nothing() -> None:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([])
    from datetime import datetime, timezone  # noqa: PLC0415

    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=timezone.utc))
        .not_valid_after(datetime(2027, 1, 1, tzinfo=timezone.utc))
        .sign(key, hashes.SHA256())
    )
    assert not verify_proof(certificate, "x", "")
