"""How long what is signed is valid. Apart from TUF's types: every command reads the settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Expiries:
    """How long the metadata of each role are valid from their signing on."""

    root: timedelta = field(default=timedelta(days=1826))
    targets: timedelta = field(default=timedelta(days=90))
    snapshot: timedelta = field(default=timedelta(days=14))
    timestamp: timedelta = field(default=timedelta(days=2))

    def of(self, role: str) -> timedelta:
        """A role's."""
        found: timedelta = getattr(self, role)
        return found
