from __future__ import annotations

import shutil
import ssl
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store

from sib_protocol.errors import ExitCode, FileAccessError
from sib_protocol.ids import HostId, HostName, new_host_id
from sib_protocol.keys import certificate_pin, key_pem, make_csr, new_key
from sib_server.pki.authority import (
    Authority,
    AuthorityExistsError,
    DamagedAuthorityError,
    NoAuthorityError,
)
from sib_server.pki.certificates import (
    AuthorityExpiredError,
    AuthorityNameError,
    ServerNameError,
    parse_server_name,
)
from sib_server.pki.peer import NotAHostCertificateError, parse_peer
from sib_server.pki.requests import read_request

NOW = datetime(2026, 11, 25, 8, 0, tzinfo=timezone.utc)
NAMES = ["sib.example", "127.0.0.1", "::1"]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "pki", "Test CA", now=NOW)


def _extension(certificate: x509.Certificate, kind: type) -> object:
    return certificate.extensions.get_extension_for_class(kind).value


def test_the_root_is_what_was_promised_and_its_key_is_private(authority: Authority) -> None:
    root = authority.certificate
    assert _extension(root, x509.BasicConstraints) == x509.BasicConstraints(True, 0)
    assert root.not_valid_after_utc == NOW + timedelta(days=3650)
    assert authority.pin == certificate_pin(root)
    home = authority.directory / "ca" / "current"
    assert home.is_symlink()
    assert stat.S_IMODE((home / "ca.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((authority.directory / "ca").stat().st_mode) == 0o700


def test_loaded_is_created(authority: Authority) -> None:
    loaded = Authority.load(authority.directory)
    assert (loaded.pin, loaded.certificate_pem) == (authority.pin, authority.certificate_pem)


def test_a_second_ca_is_refused_even_at_the_same_time(tmp_path: Path) -> None:
    def create(_: int) -> str | None:
        try:
            return Authority.create(tmp_path / "pki", "CA").pin
        except AuthorityExistsError:
            return None

    with ThreadPoolExecutor(6) as pool:
        made = [pin for pin in pool.map(create, range(6), timeout=60) if pin]
    assert made == [Authority.load(tmp_path / "pki").pin]


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb"])
def test_names_that_no_ca_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(AuthorityNameError):
        Authority.create(tmp_path / "pki", name)
    Authority.create(tmp_path / "pki", "good")


def test_a_host_certificate_verifies_as_a_client_and_not_as_a_server(authority: Authority) -> None:
    host_id, name = new_host_id(), HostName("h" * 200)
    key = new_key()
    made = authority.issue_host_certificate(
        read_request(make_csr(key, "ignored")), host_id, name, now=NOW
    )
    assert made.public_key() == key.public_key()
    assert made.not_valid_before_utc == NOW - timedelta(hours=48)
    assert made.not_valid_after_utc == NOW + timedelta(days=7)
    assert made.subject.rfc4514_string() == f"CN={'h' * 64}"
    assert list(_extension(made, x509.ExtendedKeyUsage)) == [ExtendedKeyUsageOID.CLIENT_AUTH]  # type: ignore[call-overload]
    assert _extension(made, x509.BasicConstraints) == x509.BasicConstraints(False, None)
    peer = parse_peer(made.public_bytes(serialization.Encoding.DER))
    assert (peer.host_id, peer.host_name) == (host_id, name)
    assert peer.serial == format(made.serial_number, "x")
    assert peer.not_after == int((NOW + timedelta(days=7)).timestamp())

    policy = PolicyBuilder().store(Store([authority.certificate])).time(NOW)
    assert policy.build_client_verifier().verify(made, []).chain[-1] == authority.certificate
    with pytest.raises(x509.verification.VerificationError):
        policy.build_server_verifier(x509.DNSName("h")).verify(made, [])


def test_no_certificate_outlives_the_root(authority: Authority) -> None:
    request = read_request(make_csr(new_key(), "x"))
    end = authority.certificate.not_valid_after_utc
    made = authority.issue_host_certificate(
        request, new_host_id(), HostName("x"), now=end - timedelta(days=1)
    )
    assert made.not_valid_after_utc == end
    with pytest.raises(AuthorityExpiredError):
        authority.issue_host_certificate(request, new_host_id(), HostName("x"), now=end)


def test_the_server_certificate_is_kept_until_it_is_due(authority: Authority) -> None:
    first = authority.server_certificate(NAMES, now=NOW)
    assert first.fresh
    assert stat.S_IMODE(first.key_path.stat().st_mode) == 0o600
    verifier = PolicyBuilder().store(Store([authority.certificate])).time(NOW)
    verifier.build_server_verifier(x509.DNSName("sib.example")).verify(first.certificate, [])
    # It is what OpenSSL takes, too.
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(first.certificate_path, first.key_path)

    again = authority.server_certificate([*NAMES, "::1"], now=NOW + timedelta(days=4))
    assert (again.serial, again.fresh) == (first.serial, False)
    due = authority.server_certificate(NAMES, now=NOW + timedelta(days=5))
    assert due.fresh
    assert due.serial != first.serial
    # Who opened the one before can still read it; the one before that is gone.
    assert first.key_path.exists()
    forced = authority.server_certificate(NAMES, now=NOW + timedelta(days=5), force=True)
    assert forced.serial != due.serial
    assert not first.key_path.exists()
    other = authority.server_certificate(["other.example"], now=NOW + timedelta(days=5))
    assert other.fresh
    installed = authority.installed_server_certificate()
    assert installed is not None
    assert installed.serial == other.serial


def test_a_server_certificate_from_a_clock_that_was_ahead_is_replaced(authority: Authority) -> None:
    ahead = authority.server_certificate(NAMES, now=NOW + timedelta(days=400))
    right = authority.server_certificate(NAMES, now=NOW)
    assert right.serial != ahead.serial
    assert right.certificate.not_valid_before_utc < NOW
    assert not authority.server_certificate(NAMES, now=NOW).fresh


@pytest.mark.parametrize("damage", ["key", "certificate", "gone", "other CA", "other key"])
def test_a_damaged_server_certificate_is_replaced(
    authority: Authority, tmp_path: Path, damage: str
) -> None:
    first = authority.server_certificate(NAMES, now=NOW)
    if damage == "key":
        first.key_path.write_text("junk")
    elif damage == "certificate":
        first.certificate_path.write_text("junk")
    elif damage == "gone":
        shutil.rmtree(first.directory)
    elif damage == "other key":
        first.key_path.write_bytes(key_pem(new_key()))
    else:
        other = Authority.create(tmp_path / "other", "Test CA", now=NOW)
        foreign = other.server_certificate(NAMES, now=NOW)
        first.key_path.write_bytes(foreign.key_path.read_bytes())
        first.certificate_path.write_bytes(foreign.certificate_path.read_bytes())
    second = authority.server_certificate(NAMES, now=NOW)
    assert second.fresh
    second.certificate.verify_directly_issued_by(authority.certificate)
    assert not authority.server_certificate(NAMES, now=NOW).fresh


@pytest.mark.parametrize("name", ["", "*.example", "a b", "-x", "x" * 64, "a..b", "é", "a/b", "[x"])
def test_names_that_no_server_can_have(authority: Authority, name: str) -> None:
    with pytest.raises(ServerNameError):
        authority.server_certificate([name], now=NOW)
    assert authority.installed_server_certificate() is None


def test_addresses_may_stand_in_brackets() -> None:
    assert parse_server_name("[::1]") == parse_server_name("::1")
    assert isinstance(parse_server_name("10.0.0.1"), x509.IPAddress)


def test_no_ca(tmp_path: Path) -> None:
    with pytest.raises(NoAuthorityError) as caught:
        Authority.load(tmp_path)
    assert caught.value.exit_code is ExitCode.NOT_FOUND
    assert "ca init" in (caught.value.remedy or "")


def test_a_directory_that_cannot_be_made_or_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileAccessError):
        Authority.create(tmp_path / "file" / "pki", "CA")
    with pytest.raises(FileAccessError):
        Authority.load(tmp_path / "file")


@pytest.mark.parametrize("damage", ["junk", "missing", "other"])
def test_a_damaged_ca(authority: Authority, damage: str) -> None:
    key = authority.directory / "ca" / "current" / "ca.key"
    if damage == "junk":
        key.write_text("junk")
    elif damage == "other":
        key.write_bytes(key_pem(new_key()))
    else:
        key.unlink()
    with pytest.raises(DamagedAuthorityError) as caught:
        Authority.load(authority.directory)
    assert caught.value.exit_code is ExitCode.DAMAGED


def test_a_certificate_must_name_exactly_one_host(authority: Authority) -> None:
    root_key = new_key()

    def made(*uris: str) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(authority.certificate.subject)
            .public_key(root_key.public_key())
            .serial_number(7)
            .not_valid_before(NOW)
            .not_valid_after(NOW + timedelta(days=1))
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(u) for u in uris]),
                critical=True,
            )
        )
        return builder.sign(root_key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    host, name = f"urn:sib:host:{new_host_id()}", "urn:sib:name:web-1"
    good = parse_peer(made("https://other", host, name))
    assert (good.host_id, good.host_name) == (HostId(host[13:]), "web-1")
    for bad in (
        (host,),
        (name,),
        (host, host, name),
        (host, name, "urn:sib:name:db-1"),
        ("urn:sib:host:42", name),
        (host.upper(), name),
        (host, "urn:sib:name:a b"),
        (host, "urn:sib:name:"),
    ):
        with pytest.raises(NotAHostCertificateError):
            parse_peer(made(*bad))
