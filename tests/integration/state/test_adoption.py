"""Certificates that a restored ledger does not know: which are taken in, and which never."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from sib_protocol.ids import HostName, new_host_id
from sib_protocol.keys import make_csr, new_key
from sib_protocol.messages import EnrollRequest, RenewExpired
from sib_server.fleet.adoption import FILE, AdoptionWindow, find_adoptable, read_window
from sib_server.fleet.enrollment import Fleet
from sib_server.fleet.refusals import RemovedHostError, UnknownCertificateError
from sib_server.pki.authority import Authority
from sib_server.pki.requests import read_request
from sib_server.pki.tokens import TokenStore
from sib_server.state.database import StateDatabase

HOUR = 3600 * 10**9
NOW = time.time_ns()
WINDOW = AdoptionWindow(NOW - 10 * HOUR, NOW)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "pki", "test")


@pytest.fixture
def fleet(state: StateDatabase, authority: Authority) -> Fleet:
    return Fleet(state, authority, adoption=WINDOW)


def issued(
    authority: Authority, name: str, *, hours_ago: float, host_id: str | None = None
) -> bytes:
    """A certificate that the ledger does not know."""
    request = read_request(make_csr(new_key(), name))
    made = authority.issue_host_certificate(
        request,
        host_id or new_host_id(),  # type: ignore[arg-type]
        HostName(name),
        now=datetime.fromtimestamp(NOW / 1e9, timezone.utc) - timedelta(hours=hours_ago),
    )
    return made.public_bytes(serialization.Encoding.DER)


def enroll(fleet: Fleet, state: StateDatabase, name: str) -> str:
    made = TokenStore(state).create(ttl=timedelta(hours=1), uses=1)
    answer = fleet.enroll(
        EnrollRequest(made.record.id, made.secret, name, make_csr(new_key(), name)),
        remote="192.0.2.1",
    )
    return answer.host_id


def test_one_issued_in_between_is_taken_in_once_and_stays(
    fleet: Fleet, state: StateDatabase, authority: Authority
) -> None:
    der = issued(authority, "new-1", hours_ago=5)
    first = fleet.authenticate(der)
    assert first.host_name == "new-1"
    assert fleet.authenticate(der) == first
    # The next start, without a window, knows it as well.
    assert Fleet(state, authority).authenticate(der).serial == first.serial
    assert [host.name for host in fleet.hosts()] == ["new-1"]


def test_a_known_host_comes_with_its_renewed_certificate(
    fleet: Fleet, state: StateDatabase, authority: Authority
) -> None:
    host_id = enroll(fleet, state, "web-1")
    der = issued(authority, "web-1", hours_ago=5, host_id=host_id)
    assert fleet.authenticate(der).host_id == host_id
    assert len(fleet.hosts()) == 1


def test_one_that_slept_proves_its_key_and_is_renewed(fleet: Fleet, authority: Authority) -> None:
    pem = x509.load_der_x509_certificate(issued(authority, "new-1", hours_ago=5)).public_bytes(
        serialization.Encoding.PEM
    )
    request = RenewExpired(pem.decode(), make_csr(new_key(), "x"), "AA==")
    # Its proof is looked at, so the certificate was taken in.
    with pytest.raises(Exception, match=r"proof|key"):
        fleet.renew_expired(request, remote="192.0.2.1")
    assert [host.name for host in fleet.hosts()] == ["new-1"]


@pytest.mark.parametrize("hours_ago", [10.5, -0.5, 100])
def test_one_issued_at_another_time_is_not(
    fleet: Fleet, authority: Authority, hours_ago: float
) -> None:
    with pytest.raises(UnknownCertificateError):
        fleet.authenticate(issued(authority, "new-1", hours_ago=hours_ago))
    assert fleet.hosts() == []


def test_without_a_restore_none_is(state: StateDatabase, authority: Authority) -> None:
    with pytest.raises(UnknownCertificateError):
        Fleet(state, authority).authenticate(issued(authority, "new-1", hours_ago=5))


def test_another_cas_is_not(fleet: Fleet, tmp_path: Path) -> None:
    forged = issued(Authority.create(tmp_path / "other", "test"), "new-1", hours_ago=5)
    with pytest.raises(UnknownCertificateError):
        fleet.authenticate(forged)


def test_a_removed_hosts_and_a_taken_names_are_not(
    fleet: Fleet, state: StateDatabase, authority: Authority
) -> None:
    host_id = enroll(fleet, state, "web-1")
    fleet.remove_host("web-1")
    with pytest.raises((UnknownCertificateError, RemovedHostError)):
        fleet.authenticate(issued(authority, "web-1", hours_ago=5, host_id=host_id))
    enroll(fleet, state, "db-1")
    with pytest.raises(UnknownCertificateError):
        fleet.authenticate(issued(authority, "db-1", hours_ago=5))
    # Nor one that names a known host otherwise than the ledger does.
    other = enroll(fleet, state, "app-1")
    with pytest.raises(UnknownCertificateError):
        fleet.authenticate(issued(authority, "app-2", hours_ago=5, host_id=other))


def test_a_key_of_another_host_is_not(
    fleet: Fleet, state: StateDatabase, authority: Authority
) -> None:
    key = new_key()
    made = TokenStore(state).create(ttl=timedelta(hours=1), uses=1)
    fleet.enroll(
        EnrollRequest(made.record.id, made.secret, "web-1", make_csr(key, "web-1")),
        remote="192.0.2.1",
    )
    certificate = authority.issue_host_certificate(
        read_request(make_csr(key, "evil")),
        new_host_id(),
        HostName("evil"),
        now=datetime.now(timezone.utc),
    )
    with pytest.raises(UnknownCertificateError):
        fleet.authenticate(certificate.public_bytes(serialization.Encoding.DER))


def test_what_is_no_hosts_certificate_is_not(authority: Authority, tmp_path: Path) -> None:
    server = authority.server_certificate(["localhost"]).certificate
    for der in (b"", b"\x30\x03", server.public_bytes(serialization.Encoding.DER)):
        assert find_adoptable(der, authority.certificate, WINDOW) is None
    assert read_window(tmp_path) is None
    (tmp_path / FILE).write_text("no json")
    assert read_window(tmp_path) is None
