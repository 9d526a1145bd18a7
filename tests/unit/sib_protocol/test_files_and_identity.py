from __future__ import annotations

import errno
import os
import ssl
from pathlib import Path
from unittest import mock

import pytest

from sib_protocol.errors import ExitCode, FileAccessError
from sib_protocol.files import swap_generation, write_atomic, write_synced
from sib_protocol.identity import (
    DamagedIdentityError,
    Identity,
    IdentityStore,
    NotEnrolledError,
    identity_context,
    server_trust,
)
from sib_protocol.ids import HostId, HostName, new_host_id
from sib_protocol.keys import key_pem, make_csr, new_key
from sib_server.pki.authority import Authority
from sib_server.pki.requests import read_request


def identity(serial: str) -> Identity:
    return Identity(
        HostId(new_host_id()), HostName("web-1"), ("https://127.0.0.1:1",), serial, 1, 2, 1
    )


def issue(tmp_path: Path) -> tuple[bytes, bytes, bytes]:
    """Key, certificate, CA."""
    authority = Authority.create(tmp_path / "pki", "unit")
    key = new_key()
    request = read_request(make_csr(key, "x"))
    made = authority.issue_host_certificate(request, new_host_id(), HostName("web-1"))
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    return key_pem(key), made.public_bytes(Encoding.PEM), authority.certificate_pem.encode()


def test_a_file_is_replaced_whole_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "x"
    before = os.umask(0o077)
    try:
        write_atomic(path, b"one", 0o644)
    finally:
        os.umask(before)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"one", 0o644)
    with (
        mock.patch("os.fsync", side_effect=OSError(errno.ENOSPC, "full")),
        pytest.raises(OSError, match="full"),
    ):
        write_atomic(path, b"two")
    assert path.read_bytes() == b"one"
    assert [file.name for file in tmp_path.iterdir()] == ["x"]
    with pytest.raises(FileExistsError):
        write_synced(path, b"", 0o600)


def test_short_writes_are_gone_on_with(tmp_path: Path) -> None:
    real = os.write
    with mock.patch("os.write", lambda fd, data: real(fd, bytes(data[:3]))):
        write_atomic(tmp_path / "x", b"0123456789")
    assert (tmp_path / "x").read_bytes() == b"0123456789"


def test_a_generation_is_in_force_whole(tmp_path: Path) -> None:
    one = swap_generation(tmp_path, "one", {"a": (b"1", 0o600)})
    assert (tmp_path / "current" / "a").read_bytes() == b"1"
    swap_generation(tmp_path, "two", {"a": (b"2", 0o600)})
    assert (tmp_path / "current" / "a").read_bytes() == b"2"
    assert (one / "a").read_bytes() == b"1"
    with pytest.raises(FileExistsError):
        swap_generation(tmp_path, "two", {})


def test_identities_follow_each_other_and_go(tmp_path: Path) -> None:
    store = IdentityStore(tmp_path / "identity")
    with pytest.raises(NotEnrolledError) as caught:
        store.load()
    assert caught.value.exit_code is ExitCode.NOT_FOUND
    with pytest.raises(NotEnrolledError):
        store.remove()
    made = [identity(serial) for serial in ("1", "2", "3")]
    for one in made:
        store.store(one, key=b"k", certificate=b"c", ca=b"a")
        assert store.load() == one
    assert sorted(path.name for path in store.directory.glob("gen-*")) == ["gen-2", "gen-3"]
    assert (store.current / "key.pem").stat().st_mode & 0o777 == 0o600
    assert store.directory.stat().st_mode & 0o777 == 0o700
    store.remove()
    assert list(store.directory.iterdir()) == []


def test_a_generation_that_a_crash_left_is_no_hindrance(tmp_path: Path) -> None:
    store = IdentityStore(tmp_path / "identity")
    store.store(identity("1"), key=b"k", certificate=b"c", ca=b"a")
    (store.directory / "gen-2").mkdir()
    (store.directory / "gen-2" / "key.pem").write_bytes(b"half")
    store.store(identity("2"), key=b"k", certificate=b"c", ca=b"a")
    assert store.load().serial == "2"


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[1]", None])
def test_damage_is_told_from_absence(tmp_path: Path, content: bytes | None) -> None:
    store = IdentityStore(tmp_path / "identity")
    store.store(identity("1"), key=b"k", certificate=b"c", ca=b"a")
    description = store.current.resolve() / "identity.json"
    description.unlink()
    if content is not None:
        description.write_bytes(content)
    with pytest.raises(DamagedIdentityError) as caught:
        store.load()
    assert caught.value.exit_code is ExitCode.DAMAGED
    assert "--force" in str(caught.value.remedy)


def test_a_directory_that_is_not_ours(tmp_path: Path) -> None:
    store = IdentityStore(tmp_path)
    with (
        mock.patch.object(Path, "read_bytes", side_effect=PermissionError(13, "Permission denied")),
        pytest.raises(FileAccessError, match="Permission denied"),
    ):
        store.load()


def test_contexts_trust_one_ca_and_speak_tls_1_3(tmp_path: Path) -> None:
    key, certificate, ca = issue(tmp_path)
    store = IdentityStore(tmp_path / "identity")
    store.store(identity("1"), key=key, certificate=certificate, ca=ca)
    for context in (identity_context(store), server_trust(ca.decode())):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert len(context.get_ca_certs()) == 1
    blind = server_trust(None)
    assert blind.verify_mode is ssl.CERT_NONE
    (store.current.resolve() / "key.pem").write_bytes(key_pem(new_key()))
    with pytest.raises(DamagedIdentityError):
        identity_context(store)
