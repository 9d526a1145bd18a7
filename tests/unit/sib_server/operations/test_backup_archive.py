"""Archives and keys of backups: what went in comes out, and nothing else is ever taken."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_protocol.errors import SibError
from sib_server.operations.backup import archive as archive_module
from sib_server.operations.backup import sealing
from sib_server.operations.backup.archive import ArchiveReader, GeneratedReader, write_archive
from sib_server.operations.backup.errors import (
    ArchiveRefusedError,
    ChangedMeanwhileError,
    KeyFormError,
    TooLargeForPassphraseError,
    WrongKeyError,
)
from sib_server.operations.backup.manifest import (
    FORMAT,
    MAX_FILES,
    Entry,
    Link,
    Manifest,
    Section,
    check,
    order,
    parse_manifest,
)

FILES = {
    "config/server.yaml": b"listen: {port: 8443}\n",
    "pki/ca/gen-1/ca.key": b"secret",
    "state/state.db": b"S" * 1500,
    "journal/journal.db": bytes(range(256)) * 3000,
}


def entry(path: str, content: bytes, mode: int = 0o600) -> Entry:
    return Entry(path, len(content), hashlib.sha256(content).hexdigest(), mode)


def manifest_of(files: dict[str, bytes], links: tuple[Link, ...] = ()) -> Manifest:
    entries = sorted((entry(path, content) for path, content in files.items()), key=order)
    return Manifest(
        FORMAT, "1", 1_700_000_000 * 10**9, "machine", "ab", "0001", tuple(entries), links
    )


def packed(files: dict[str, bytes], manifest: Manifest | None = None) -> bytes:
    def opened(wanted: Entry) -> BinaryIO:
        return io.BytesIO(files[wanted.path])

    return b"".join(write_archive(manifest or manifest_of(files), opened))


def unpacked(source: BinaryIO) -> dict[str, bytes]:
    reader = ArchiveReader(source)
    found: dict[str, bytes] = {}
    while True:
        parts: list[bytes] = []
        got = reader.next_entry(parts.append)
        if got is None:
            return found
        found[got.path] = b"".join(parts)


PARTS = st.text(st.characters(exclude_characters="/\x7f", min_codepoint=32, codec="utf-8"),
                min_size=1, max_size=8).filter(lambda part: part not in {".", ".."})  # fmt: skip
PATHS = st.builds(
    lambda section, parts: "/".join([section.value, *parts]),
    st.sampled_from(Section),
    st.lists(PARTS, min_size=1, max_size=2),
)


@given(st.dictionaries(PATHS, st.binary(max_size=2000), max_size=6))
def test_what_goes_in_comes_out(files: dict[str, bytes]) -> None:
    try:
        manifest = manifest_of(files)
        check(manifest)
    except ArchiveRefusedError:
        return  # one path lies below another
    assert unpacked(io.BytesIO(packed(files, manifest))) == files


def test_any_tar_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(packed(FILES))
    with tarfile.open(path) as opened:
        assert opened.getnames() == [
            "manifest.json",
            *(found.path for found in manifest_of(FILES).entries),
        ]
    if shutil.which("tar"):
        subprocess.run(["tar", "xzf", str(path), "-C", str(tmp_path)], check=True)
        assert (tmp_path / "journal/journal.db").read_bytes() == FILES["journal/journal.db"]


def test_a_file_of_more_than_8_gib_has_one_header_too() -> None:
    header = archive_module._header("journal/journal.db", 9 * 2**30, 0o640, 0)
    assert len(header) == 512
    assert tarfile.TarInfo.frombuf(header, "utf-8", "strict").size == 9 * 2**30


def test_a_copy_that_shrank_makes_no_backup() -> None:
    with pytest.raises(ChangedMeanwhileError):
        packed({**FILES, "state/state.db": b"short"}, manifest_of(FILES))


@given(st.data())
def test_no_flipped_bit_and_no_cut_goes_unnoticed_even_without_encryption(
    data: st.DataObject,
) -> None:
    plain = bytearray(gzip.decompress(packed(FILES)))
    what = data.draw(st.sampled_from(["flip", "cut", "add"]))
    place = data.draw(st.integers(0, len(plain) - 1))
    if what == "flip":
        plain[place] ^= 1 << data.draw(st.integers(0, 7))
    elif what == "cut":
        del plain[place:]
    else:
        plain[place:place] = data.draw(st.binary(min_size=1, max_size=600))
    try:
        found = unpacked(io.BytesIO(gzip.compress(bytes(plain), 1)))
    except ArchiveRefusedError:
        return
    # What tar does not look at (times, owners) may differ; what is taken may not.
    assert found == FILES


@given(st.binary(max_size=2000))
def test_anything_else_is_refused(content: bytes) -> None:
    for source in (content, gzip.compress(content)):
        with pytest.raises(ArchiveRefusedError):
            unpacked(io.BytesIO(source))


def _tar_with(member: tarfile.TarInfo, content: bytes = b"") -> bytes:
    manifest = msgspec.json.encode(manifest_of({member.name: content}))
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz", format=tarfile.USTAR_FORMAT) as made:
        first = tarfile.TarInfo("manifest.json")
        first.size = len(manifest)
        made.addfile(first, io.BytesIO(manifest))
        made.addfile(member, io.BytesIO(content))
    return target.getvalue()


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_in_the_tar_are_refused(kind: bytes) -> None:
    member = tarfile.TarInfo("pki/x")
    member.type = kind
    member.linkname = "/etc/shadow" if kind in {tarfile.SYMTYPE, tarfile.LNKTYPE} else ""
    with pytest.raises(ArchiveRefusedError, match=r"no plain file|should be"):
        unpacked(io.BytesIO(_tar_with(member)))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"path": "../etc/passwd"}, "is called"),
        ({"path": "pki/../../etc/passwd"}, "is called"),
        ({"path": "/etc/passwd"}, "is called"),
        ({"path": "pki"}, "is called"),
        ({"path": "pki//x"}, "is called"),
        ({"path": "pki/a\nb"}, "is called"),
        ({"path": "pki/" + "x" * 101}, "is called"),
        ({"path": "pki/" + "/".join(["x" * 90] * 3)}, "is called"),
        ({"path": "elsewhere/x"}, "is called"),
        ({"size": -1}, "bytes"),
        ({"size": 2**50}, "bytes"),
        ({"sha256": "00"}, "checksum"),
        ({"mode": 0o4755}, "mode"),
        ({"owner": "root\n"}, "belongs to"),
    ],
)
def test_a_hostile_manifest_is_refused(changes: dict[str, object], reason: str) -> None:
    bad = msgspec.structs.replace(entry("pki/x", b""), **changes)
    with pytest.raises(ArchiveRefusedError, match=reason):
        check(msgspec.structs.replace(manifest_of({}), entries=(bad,)))


def test_what_contradicts_itself_is_refused() -> None:
    one = entry("pki/x", b"")
    for entries, links, reason in (
        ((one, one), (), "twice"),
        ((one, entry("pki/x/y", b"")), (), "below a file"),
        ((entry("state/a", b""), one), (), "out of order"),
        ((one,), (Link("pki/x", "y"),), "twice"),
        ((), (Link("pki/l", "../etc"),), "leads elsewhere"),
        ((), (Link("pki/l", ".."),), "leads elsewhere"),
        ((one,) * (MAX_FILES + 1), (), "more than"),
        ((msgspec.structs.replace(entry("config/x", b""), size=2**30),), (), "far too large"),
    ):
        with pytest.raises(ArchiveRefusedError, match=reason):
            check(msgspec.structs.replace(manifest_of({}), entries=entries, links=links))
    with pytest.raises(ArchiveRefusedError, match="format is 2"):
        check(msgspec.structs.replace(manifest_of({}), format=2))
    with pytest.raises(ArchiveRefusedError, match="cannot be read"):
        parse_manifest(b"{}")


@given(st.lists(st.binary(min_size=1, max_size=50)), st.integers(1, 40))
def test_a_generated_reader_gives_all_of_it(chunks: list[bytes], size: int) -> None:
    reader = GeneratedReader(iter(chunks))
    found = []
    while piece := reader.read(size):
        assert len(piece) <= size
        found.append(piece)
    assert b"".join(found) == b"".join(chunks)
    assert GeneratedReader(iter(chunks)).read() == b"".join(chunks)


@dataclass
class Sealed:
    """One backup for a key, made once: deriving keys takes time."""

    secret: str = ""
    content: bytes = b""
    identities: list[object] = field(default_factory=list)


@pytest.fixture(scope="module")
def sealed() -> Sealed:
    secret, public = sealing.make_identity()
    target = io.BytesIO()
    sealing.seal(iter([packed(FILES)]), target, [sealing.parse_recipient(public)])
    return Sealed(secret, target.getvalue(), sealing.parse_identities(f"# x\n{secret}\n", "key"))


def opened(content: bytes, key: str | list[object]) -> dict[str, bytes]:
    with sealing.unseal(io.BytesIO(content), key) as plain:
        return unpacked(plain)


def test_a_key_opens_what_was_made_for_it_and_no_other_does(sealed: Sealed) -> None:
    assert not sealing.needs_passphrase(io.BytesIO(sealed.content))
    assert opened(sealed.content, sealed.identities) == FILES
    other, _ = sealing.make_identity()
    with pytest.raises(WrongKeyError):
        opened(sealed.content, sealing.parse_identities(other, "key"))


@given(data=st.data())
def test_no_change_to_an_encrypted_backup_goes_unnoticed(
    data: st.DataObject, sealed: Sealed
) -> None:
    changed = bytearray(sealed.content)
    what = data.draw(st.sampled_from(["flip", "cut", "add"]))
    place = data.draw(st.integers(0, len(changed) - 1))
    if what == "flip":
        changed[place] ^= 1 << data.draw(st.integers(0, 7))
    elif what == "cut":
        del changed[place:]
    else:
        changed += data.draw(st.binary(min_size=1, max_size=100))
    with pytest.raises((ArchiveRefusedError, WrongKeyError)):
        opened(bytes(changed), sealed.identities)


def test_a_passphrase_opens_it_too() -> None:
    target = io.BytesIO()
    sealing.seal_with_passphrase(iter([packed(FILES)]), target, "correct horse battery", 1)
    content = target.getvalue()
    assert sealing.needs_passphrase(io.BytesIO(content))
    assert opened(content, "correct horse battery") == FILES
    with pytest.raises(WrongKeyError):
        opened(content, "another passphrase")
    with pytest.raises(ArchiveRefusedError):
        opened(content[:-1], "correct horse battery")
    with pytest.raises(TooLargeForPassphraseError):
        sealing.seal_with_passphrase(iter([]), target, "x", sealing.MAX_PASSPHRASE_BYTES + 1)


def test_an_error_of_ours_passes_through_the_encryption() -> None:
    def failing() -> Iterator[bytes]:
        yield b"x"
        raise ChangedMeanwhileError("state/state.db")

    _, public = sealing.make_identity()
    with pytest.raises(ChangedMeanwhileError):
        sealing.seal(failing(), io.BytesIO(), [sealing.parse_recipient(public)])


def test_texts_that_are_no_keys_are_never_repeated() -> None:
    secret, public = sealing.make_identity()
    for call in (
        lambda: sealing.parse_recipient(secret),
        lambda: sealing.parse_identities(secret[:-1], "key"),
        lambda: sealing.parse_identities(public, "key"),
        lambda: sealing.parse_identities("# nothing\n", "key"),
        lambda: sealing.check_passphrase("short", "file"),
    ):
        with pytest.raises(KeyFormError) as caught:
            call()
        assert secret[:-1] not in f"{caught.value.problem} {caught.value.remedy}"
    with pytest.raises(ArchiveRefusedError, match="not encrypted"):
        sealing.needs_passphrase(io.BytesIO(packed(FILES)))
    assert issubclass(KeyFormError, SibError)
