from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_packaging.gomodules import Module, go_modules

MAGIC = b"\xff Go buildinf:"
NFPM = Path(__file__).resolve().parents[3] / ".venv/bin/nfpm"


def varint(value: int) -> bytes:
    head = b""
    while value >= 0x80:
        head += bytes([value & 0x7F | 0x80])
        value >>= 7
    return head + bytes([value])


def image(listed: str) -> bytes:
    text = b"s" * 16 + listed.encode() + b"e" * 16
    version = b"go1.26.1"
    header = MAGIC + bytes([8, 2]) + bytes(16)
    return (
        b"\x7fELF" + bytes(44) + header + varint(len(version)) + version + varint(len(text)) + text
    )


def test_modules_and_what_replaced_them(tmp_path: Path) -> None:
    program = tmp_path / "x"
    program.write_bytes(
        # The magic is also among the program's own constants, without anything behind it.
        MAGIC
        + bytes(2)
        + image(
            "path\texample.org/x\nmod\texample.org/x\t(devel)\t\n"
            "dep\tgolang.org/x/net\tv0.40.0\th1:abc=\n"
            "dep\texample.org/old\tv1.0.0\n=>\texample.org/new\tv1.1.0\th1:def=\n"
            "dep\texample.org/part\tv1.2.0\n=>\t./part\t(devel)\t\n"
            "build\t-compiler=gc\n"
        )
        + bytes(100)
    )
    assert go_modules(program) == [
        Module("example.org/new", "v1.1.0"),
        Module("example.org/part", "v1.2.0"),
        Module("golang.org/x/net", "v0.40.0"),
    ]


def test_a_real_program(tmp_path: Path) -> None:
    found = shutil.which("nfpm") or str(NFPM)
    modules = {module.path: module.version for module in go_modules(Path(found))}
    assert len(modules) > 20
    assert "github.com/klauspost/compress" in modules
    assert Module("a/b", "v1+x").purl == "pkg:golang/a/b@v1%2Bx"
    assert all(version.startswith("v") for version in modules.values())


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", MAGIC, MAGIC + b"\x08\x02" + bytes(16)])
def test_what_is_not_go_has_none(content: bytes, tmp_path: Path) -> None:
    program = tmp_path / "x"
    program.write_bytes(content)
    assert go_modules(program) == []


@given(st.binary(max_size=200), st.integers(0, 2**40))
def test_no_bytes_break_it(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes, length: int
) -> None:
    program = tmp_path_factory.getbasetemp() / "strange"
    program.write_bytes(MAGIC + b"\x08\x02" + bytes(16) + varint(length) + tail)
    assert isinstance(go_modules(program), list)
