"""The program that stands in for real ones: it leaves with 0 and does nothing else. Pure.

It is made here, byte by byte, because every program of a system does something when it is given
the right words, and a copy of ``/bin/true`` under another name need not even start (busybox,
uutils).
"""

from __future__ import annotations

import struct
from typing import Final

_BASE: Final = 0x400000
_HEADERS: Final = 64 + 56
# What leaves with 0, and the number of the call for it.
_CODE: Final = {
    "x86_64": (62, bytes.fromhex("31ff b8e7000000 0f05")),
    "aarch64": (183, struct.pack("<3I", 0xD2800000, 0xD2800BC8, 0xD4000001)),
}


def standin_program(machine: str) -> bytes | None:
    """A whole ELF program for a machine as ``os.uname`` calls it; ``None`` for other ones."""
    if machine not in _CODE:
        return None
    number, code = _CODE[machine]
    size = _HEADERS + len(code)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    entry = _BASE + _HEADERS
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", ident, 2, number, 1, entry, 64, 0, 0, 64, 56, 1, 64, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + code
