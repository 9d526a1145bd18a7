"""The shipped tactics and techniques."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

import msgspec

DATA: Final = Path(__file__).with_name("enterprise.json")


class Tactic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A column of the matrix.

    Attributes:
        id: such as ``TA0006``.
        name: such as ``Credential Access``.
        tag: as rules write it after ``mitre_``, such as ``credential_access``.
    """

    id: str
    name: str
    tag: str


class Technique(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A technique or sub-technique.

    Attributes:
        id: such as ``T1003.008``.
        name: its own, without that of the technique above it.
        tactics: tags of its tactics.
        linux: it is known to be used on Linux or in containers.
        gone: ``revoked`` or ``deprecated``; empty for what is in force.
    """

    id: str
    name: str
    tactics: tuple[str, ...]
    linux: bool = True
    gone: str = ""

    @property
    def parent(self) -> str | None:
        """The technique above a sub-technique."""
        above, dot, _ = self.id.partition(".")
        return above if dot else None


class Matrix(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One version of ATT&CK for enterprises.

    Attributes:
        version: MITRE's, such as ``18.1``.
        notice: what MITRE asks to be told with every copy.
        tactics: in the matrix's order.
        techniques: by id, sub-techniques right after theirs.
    """

    version: str
    notice: str
    tactics: tuple[Tactic, ...]
    techniques: tuple[Technique, ...]

    def by_id(self) -> dict[str, Technique]:
        """Techniques by their ids."""
        return {technique.id: technique for technique in self.techniques}

    def title(self, technique: Technique) -> str:
        """A sub-technique's name with that of the technique above it."""
        above = self.by_id().get(technique.parent or "")
        return f"{above.name}: {technique.name}" if above is not None else technique.name


@cache
def shipped() -> Matrix:
    """The matrix that came with SIB."""
    return msgspec.json.decode(DATA.read_bytes(), type=Matrix)
