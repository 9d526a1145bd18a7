from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_protocol.bundles.archive import ArchiveError, ArchiveLimits, pack, unpack
from sib_protocol.bundles.names import (
    MAX_VERSION,
    TargetName,
    parse_target_name,
    tag_part,
)
from sib_protocol.errors import MalformedMessageError

NAMES = st.from_regex(r"(rules|drills)/[A-Za-z0-9][A-Za-z0-9._+-]{0,20}\.yaml", fullmatch=True)
FILES = st.dictionaries(NAMES, st.binary(max_size=1500), max_size=5)


@given(FILES)
def test_what_is_packed_comes_out_and_is_the_same_bytes_each_time(files: dict[str, bytes]) -> None:
    packed = pack(files)
    assert packed == pack(dict(reversed(files.items())))
    assert unpack(packed) == files


def test_other_tools_can_read_it(tmp_path: Path) -> None:
    packed = pack({"rules/10-own.yaml": b"- list: a\n", "drills/own.drills.yaml": b""})
    with tarfile.open(fileobj=io.BytesIO(packed)) as opened:
        assert sorted(opened.getnames()) == ["drills/own.drills.yaml", "rules/10-own.yaml"]
        extracted = opened.extractfile("rules/10-own.yaml")
        assert extracted is not None
        assert extracted.read() == b"- list: a\n"


@given(FILES, st.data())
def test_no_damage_does_more_than_refuse(files: dict[str, bytes], data: st.DataObject) -> None:
    packed = pack(files)
    plain = bytearray(gzip.decompress(packed))
    place = data.draw(st.integers(0, len(plain) - 1))
    plain[place] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(plain)))
    for changed in (bytes(plain), bytes(plain[:cut]), bytes(plain) + b"x"):
        try:
            found = unpack(gzip.compress(changed, mtime=0))
        except ArchiveError:
            continue
        # A changed byte inside a file is for TUF to see; nothing may come under another name.
        assert all(name.startswith(("rules/", "drills/")) for name in found)
        assert all(".." not in Path(name).parts for name in found)
    with pytest.raises(ArchiveError):
        unpack(packed[: data.draw(st.integers(0, len(packed) - 1))])


@given(st.binary(max_size=3000))
def test_any_bytes_are_refused(noise: bytes) -> None:
    for packed in (noise, gzip.compress(noise, mtime=0)):
        try:
            assert unpack(packed) == {}
        except ArchiveError:
            continue
        assert not any(noise)


def tar(*members: tarfile.TarInfo) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz", format=tarfile.USTAR_FORMAT) as opened:
        for member in members:
            opened.addfile(member, io.BytesIO(bytes(member.size)))
    return made.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, target, 0o644
    return made


@pytest.mark.parametrize(
    "hostile",
    [
        member("../outside.yaml"),
        member("/etc/passwd"),
        member("rules/../../outside.yaml"),
        member("rules/.hidden.yaml"),
        member("rules/a.sh"),
        member("other/a.yaml"),
        member("rules/a.yaml", tarfile.SYMTYPE, "/etc/shadow"),
        member("rules/a.yaml", tarfile.LNKTYPE, "/etc/shadow"),
        member("rules/a.yaml", tarfile.CHRTYPE),
        member("rules/a.yaml", tarfile.FIFOTYPE),
        member("rules", tarfile.DIRTYPE),
        member("rules/a.yaml", tarfile.XHDTYPE),
    ],
    ids=lambda hostile: f"{hostile.name}-{hostile.type.decode()}",
)
def test_hostile_members_are_refused(hostile: tarfile.TarInfo) -> None:
    with pytest.raises(ArchiveError):
        unpack(tar(hostile))


def test_more_than_is_allowed_is_refused_while_it_unpacks() -> None:
    limits = ArchiveLimits(packed=4000, unpacked=20_000, file=4096, files=3)
    bomb = gzip.compress(bytes(50_000_000), 9, mtime=0)
    with pytest.raises(ArchiveError, match="larger"):
        unpack(bomb, limits)
    with pytest.raises(ArchiveError, match="unpacks to more"):
        unpack(gzip.compress(bytes(2_000_000), 9, mtime=0), limits)
    with pytest.raises(ArchiveError, match=r"a\.yaml is larger"):
        pack({"rules/a.yaml": bytes(4097)}, limits)
    with pytest.raises(ArchiveError, match="more than the 3 files"):
        pack({f"rules/{number}.yaml": b"" for number in range(4)}, limits)
    twice = gzip.decompress(pack({"rules/a.yaml": b"1"}))[:1024]
    with pytest.raises(ArchiveError, match="twice"):
        unpack(gzip.compress(twice * 2 + bytes(1024), mtime=0))
    with pytest.raises(ArchiveError, match="file's name"):
        pack({"rules/a b.yaml": b""})


TAGS = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?", fullmatch=True)


@given(st.integers(1, MAX_VERSION), TAGS)
def test_names_of_targets_come_back(version: int, tag: str) -> None:
    for part in ("base", tag_part(tag)):
        name = TargetName(version, part)
        assert parse_target_name(str(name)) == name


@pytest.mark.parametrize(
    "text",
    ["", "base", "0.base.tar.gz", "01.base.tar.gz", "1.tag-.tar.gz", "1.tag-a/b.tar.gz",
     "9999999999.base.tar.gz", "1.base.tar.gz\n", "../1.base.tar.gz", "1.other.tar.gz"],
)  # fmt: skip
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(MalformedMessageError):
        parse_target_name(text)
