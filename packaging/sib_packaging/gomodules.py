"""The modules that a Go program was made of, as its linker wrote them into it."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

if TYPE_CHECKING:
    from pathlib import Path

_MAGIC: Final = b"\xff Go buildinf:"
_HEADER: Final = 32
# The strings follow the header; so it is since Go 1.18.
_INLINE: Final = 2
_FLAGS: Final = 15
# What stands before and after the list of modules, to be found by other means.
_SENTINEL: Final = 16
_LONGEST: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Module:
    """One module.

    Attributes:
        path: as imported, or of the module that replaced it; a folder that did has no name.
        version: of the module; ``(devel)`` where the program was built in its own checkout.
    """

    path: str
    version: str

    @property
    def purl(self) -> str:
        """Its package URL."""
        return f"pkg:golang/{self.path}@{quote(self.version, safe='')}"


def go_modules(program: Path) -> list[Module]:
    """The modules in a program, its own one left out; none where it is not Go's or does not say."""
    if program.stat().st_size == 0:
        return []
    with (
        program.open("rb") as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        at = content.find(_MAGIC)
        while at >= 0:
            head = content[at : at + _HEADER + 2 * _LONGEST]
            if len(head) > _HEADER and head[_FLAGS] & _INLINE:
                _, rest = _string(head[_HEADER:])
                listed, _ = _string(rest)
                if len(listed) > 2 * _SENTINEL:
                    return _parse(listed[_SENTINEL:-_SENTINEL].decode("utf-8", "replace"))
            at = content.find(_MAGIC, at + 1)
    return []


def _string(data: bytes) -> tuple[bytes, bytes]:
    """A string after its length, seven bits a byte, the lowest first; and what follows it."""
    length = shift = 0
    for position, byte in enumerate(data[:5]):
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            end = position + 1 + length
            return data[position + 1 : end], data[end:]
    return b"", b""


def _parse(text: str) -> list[Module]:
    modules: list[Module] = []
    for line in text.splitlines():
        kind, *fields = line.split("\t")
        if len(fields) < 2:
            continue
        if kind == "dep":
            modules.append(Module(fields[0], fields[1]))
        elif kind == "=>" and modules and not fields[0].startswith((".", "/")):
            modules[-1] = Module(fields[0], fields[1])
    return sorted(set(modules), key=lambda module: (module.path, module.version))
