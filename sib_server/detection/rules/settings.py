"""The settings of rules."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

_PACKAGED: Final = Path("/usr/share/sib-server/rules/falco")
_CHECKOUT: Final = Path(__file__).resolve().parents[3] / "rules" / "falco"


class DetectionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where rules come from, and what was decided about them."""

    own_rules: Annotated[
        Path, Meta(description="Your own rules files, *.yaml, with *.drills.yaml beside them.")
    ] = Path("/etc/sib/rules.d")
    shipped_rules: Annotated[
        Path | None, Meta(description="SIB's own rules; null: those that came with SIB.")
    ] = None
    falco_rules: Annotated[
        Path | None,
        Meta(
            description="A file or folder with the Falco project's own rules, which go to hosts"
            " with all others. null: those that came with SIB; an empty folder: none."
        ),
    ] = None
    directory: Annotated[
        Path, Meta(description="What `rules enable`, `disable` and `tune` decided.")
    ] = Path("/var/lib/sib-server/rules")

    def shipped(self) -> Path:
        """The folder of SIB's own rules: as set, as packaged, or as in a checkout."""
        if self.shipped_rules is not None:
            return self.shipped_rules
        return _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT

    def falco(self) -> Path:
        """Where the Falco project's rules would be."""
        return self.falco_rules or Path("/usr/share/sib-server/falco-rules")
