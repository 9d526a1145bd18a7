"""What the named version of Falco knows: fields, event types, its engine's version.

The names are facts of ``falco --list`` and ``--list-events``; ``scripts/update-falco-facts`` takes
them from a real binary.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Final, Literal

import msgspec

DATA: Final = Path(__file__).with_name("engine.json")
_VERSION: Final = re.compile(r"\d{1,9}(\.\d{1,9}){0,2}", re.ASCII)


class EngineFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one version of Falco knows.

    Attributes:
        falco: the version of the program.
        engine: the version of its rules engine.
        fields: name -> whether an argument in brackets may or has to follow; empty: none;
            ``unlisted``: Falco still takes the field and no longer lists it.
        events: names of system calls and other events.
    """

    falco: str
    engine: str
    fields: dict[str, Literal["", "allowed", "required", "unlisted"]]
    events: tuple[str, ...]

    def field(self, name: str) -> tuple[str, str | None] | None:
        """A field as a condition names it: its name in ``fields`` and an argument after a dot.

        ``evt.arg.data`` is ``evt.arg`` with ``data``. ``None`` for one that is not known.
        """
        if name in self.fields:
            return name, None
        known, _, argument = name.rpartition(".")
        return (known, argument) if self.fields.get(known) == "required" else None


def engine_version(text: str) -> tuple[int, ...] | None:
    """A version to compare; Falco reads a bare number ``N`` as ``0.N.0``."""
    if _VERSION.fullmatch(text) is None:
        return None
    numbers = [int(part) for part in text.split(".")]
    return (0, numbers[0], 0) if len(numbers) == 1 else (*numbers, 0, 0)[:3]


@cache
def shipped_facts() -> EngineFacts:
    """Those that came with SIB."""
    return msgspec.json.decode(DATA.read_bytes(), type=EngineFacts)
