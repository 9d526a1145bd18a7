"""Where what imported rules were made into is: apart, for whoever does not convert any."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def falco_file(directory: Path) -> Path:
    """Falco's rules for the next bundle, in the directory of the settings."""
    return directory / "falco" / "sigma.yaml"
