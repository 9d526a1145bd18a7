from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from sib_protocol.errors import FileAccessError
from sib_server.stack.access import (
    StoreAccess,
    StoreAccessError,
    authorization,
    request_headers,
    tls,
)
from sib_server.stack.grafana_tls import make_certificate


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("s3cr3t\n")
    return path


def test_nothing_set_is_nobody_and_the_systems_cas() -> None:
    assert request_headers(StoreAccess(), None) == {"User-Agent": "sib-server"}
    assert tls(StoreAccess()) is True


def test_a_name_with_its_password_or_a_token(secret: Path) -> None:
    basic = StoreAccess(username="sib", password_file=secret)
    assert authorization(basic) == "Basic c2liOnMzY3IzdA=="
    found = request_headers(StoreAccess(token_file=secret), "tenant-1")
    assert found["Authorization"] == "Bearer s3cr3t"
    assert found["X-Scope-OrgID"] == "tenant-1"


def test_half_a_pair_is_an_error(secret: Path) -> None:
    for access in (
        StoreAccess(username="sib"),
        StoreAccess(password_file=secret),
        StoreAccess(username="sib", password_file=secret, token_file=secret),
    ):
        with pytest.raises(StoreAccessError) as caught:
            authorization(access)
        assert caught.value.remedy
    with pytest.raises(StoreAccessError):
        tls(StoreAccess(certificate_file=secret))


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe", b"two\nlines", b"x" * 70_000])
def test_what_is_no_secret_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    with pytest.raises(StoreAccessError, match=str(path)):
        authorization(StoreAccess(token_file=path))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with pytest.raises(FileAccessError, match="gone"):
        authorization(StoreAccess(token_file=gone))
    with pytest.raises(FileAccessError, match="gone"):
        tls(StoreAccess(ca_file=gone))


def test_certificates_are_loaded(tmp_path: Path, secret: Path) -> None:
    pem = tmp_path / "pem"
    pem.write_bytes(make_certificate(["store.example"]))
    context = tls(StoreAccess(ca_file=pem, certificate_file=pem, key_file=pem))
    assert isinstance(context, ssl.SSLContext)
    assert context.check_hostname
    assert len(context.get_ca_certs()) in (0, 1)
    with pytest.raises(StoreAccessError, match="cannot be used"):
        tls(StoreAccess(ca_file=secret))
