"""Parsers of what strangers send: a clear refusal for every input, never another exception."""

from __future__ import annotations

import base64
from contextlib import suppress
from datetime import datetime, timezone

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import example, given
from hypothesis import strategies as st

from sib_protocol.ids import HostName, new_host_id
from sib_protocol.keys import make_csr, new_key
from sib_protocol.messages import Refusal
from sib_server.errors import BadRequestError, RefusedError, TooManyAttemptsError
from sib_server.pki.certificates import build_host_certificate, build_root
from sib_server.pki.ledger import normal_serial
from sib_server.pki.peer import parse_peer
from sib_server.pki.requests import CertificateRequestError, read_request

CSR = make_csr(new_key(), "web-1")
DER = base64.b64decode("".join(CSR.splitlines()[1:-1]))


def _certificate() -> bytes:
    key, now = new_key(), datetime(2026, 11, 25, tzinfo=timezone.utc)
    made = build_host_certificate(
        build_root(key, "CA", now),
        key,
        new_key().public_key(),
        host_id=new_host_id(),
        host_name=HostName("web-1"),
        now=now,
    )
    return made.public_bytes(serialization.Encoding.DER)


CERTIFICATE = _certificate()


def _pem(der: bytes) -> str:
    body = base64.encodebytes(der).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n"


def test_the_unharmed_request_is_good_in_any_spelling() -> None:
    assert read_request(_pem(DER)) == read_request(CSR)


@example(at=7, by=1)  # the version
@given(at=st.integers(0, len(DER) - 1), by=st.integers(1, 255))
def test_no_flipped_byte_is_taken(at: int, by: int) -> None:
    harmed = bytearray(DER)
    harmed[at] ^= by
    with suppress(CertificateRequestError):
        read = read_request(_pem(bytes(harmed)))
        raise AssertionError(f"byte {at} ^ {by} was taken as {read}")


@given(st.one_of(st.text(), st.binary(max_size=400).map(_pem)))
def test_any_text_is_refused_not_a_crash(text: str) -> None:
    with suppress(CertificateRequestError):
        read_request(text)
        raise AssertionError("taken")


# cryptography warns of serial numbers that are not positive; here they are part of the game.
@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@given(at=st.integers(0, len(CERTIFICATE) - 1), by=st.integers(1, 255))
def test_a_certificate_with_a_flipped_byte_is_another_or_none(at: int, by: int) -> None:
    harmed = bytearray(CERTIFICATE)
    harmed[at] ^= by
    with suppress(RefusedError):
        assert parse_peer(bytes(harmed)).der != CERTIFICATE


@given(st.binary(max_size=400))
def test_any_bytes_are_no_certificate(der: bytes) -> None:
    with suppress(RefusedError):
        parse_peer(der)
        raise AssertionError("taken")


def test_serials_as_people_write_them() -> None:
    assert {normal_serial(text) for text in ("0A:BC", " abc\n", "0x0abc", "ABC")} == {"abc"}


def test_a_refusal_says_what_the_protocol_wants() -> None:
    assert TooManyAttemptsError("enrollments", 12.3).refusal() == Refusal(
        "too_many_attempts",
        "too many enrollments: the next one is looked at in 12 s",
        "wait and try again",
    )
    assert BadRequestError("no").status == 400
