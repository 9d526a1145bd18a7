"""Where each part of a backup lies on a machine. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from sib_server.operations.backup.manifest import Section

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sib_server.settings import ServerSettings

DEFAULT_HOME: Final = Path("/var/lib/sib-server")
SETTINGS: Final = "server.yaml"
"""What the settings file is called in a backup, whatever it is called here."""

DATABASES: Final = frozenset({Section.STATE, Section.JOURNAL})
"""Parts that are one SQLite file each."""

_OF_AGENTS: Final = frozenset({"agent.yaml", "falco.yaml", "config.alloy"})
_ASIDE: Final = ".before-restore-"


@dataclass(frozen=True, slots=True)
class Places:
    """Where the parts lie.

    Attributes:
        settings: the settings file.
        home: the server's own directory.
        of: part -> its directory, or its file for a database; without those that this server
            has not.
    """

    settings: Path
    home: Path
    of: Mapping[Section, Path]


def sqlite_path(url: str) -> Path | None:
    """The file of an SQLite URL; ``None`` for another database's."""
    parts = urlsplit(url)
    return Path(parts.path[1:]) if parts.scheme == "sqlite" and len(parts.path) > 1 else None


def find_places(settings: ServerSettings, settings_file: Path) -> Places:
    """Where this server's parts lie.

    Args:
        settings: as they stand in the file.
        settings_file: the rest of the configuration lies beside it.
    """
    state = sqlite_path(settings.state.url)
    home = DEFAULT_HOME if state is None else state.parent
    of = {
        Section.CONFIG: settings_file.parent,
        Section.PKI: settings.pki.directory,
        Section.SECRETS: home / "secrets",
        Section.RULES: settings.detection.directory,
        Section.BUNDLES: settings.bundles.directory,
        Section.SIGMA: settings.sigma.directory,
        Section.INTEL: settings.intel.directory,
        Section.JOURNAL: settings.journal.path,
    }
    if state is not None:
        of[Section.STATE] = state
    return Places(settings_file, home, of)


def is_config(places: Places, path: Path) -> bool:
    """Whether a file beside the settings file belongs to the server's configuration."""
    below = path.relative_to(places.settings.parent)
    if below.parts[0] in _OF_AGENTS or any(part.startswith(".") for part in below.parts):
        return False
    if _ASIDE in path.name or path == places.settings:
        return False
    others = [place for section, place in places.of.items() if section is not Section.CONFIG]
    databases = [places.of[section] for section in DATABASES if section in places.of]
    return not any(path == other or other in path.parents for other in others) and not any(
        path.parent == base.parent and path.name.startswith(f"{base.name}") for base in databases
    )


def aside(path: Path, stamp: str) -> Path:
    """What a thing is called after a restore took its place."""
    return path.with_name(f"{path.name}{_ASIDE}{stamp}")
