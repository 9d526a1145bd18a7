"""What of SIB is on a server, for ``sib-server uninstall``. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from sib_server.operations.backup.manifest import Section
from sib_server.operations.backup.places import DATABASES, find_places

if TYPE_CHECKING:
    from sib_server.settings import ServerSettings

TARGET: Final = "sib-server.target"
PACKAGES: Final = ("sib-loki", "sib-prometheus", "sib-grafana", "sib-falcosidekick", "sib-server")
_STATE: Final = (
    "/var/lib/sib-server",
    "/var/lib/sib-server-setup",
    "/var/lib/sib-disk-guard",
    "/var/lib/sib-loki",
    "/var/lib/sib-prometheus",
    "/var/lib/sib-grafana",
)
_GENERATED: Final = (
    "server.d",
    "loki.yaml",
    "prometheus.yaml",
    "prometheus.env",
    "falcosidekick.yaml",
    "grafana.ini",
    "grafana",
    "secrets",
)


def own_paths(settings: ServerSettings, settings_file: Path) -> tuple[Path, ...]:
    """Everything that SIB wrote on this server.

    The settings file, ``outputs.yaml`` and ``rules.d`` are people's own; a package manager's purge
    takes its configuration files, and the rest stays.

    Args:
        settings: the server's.
        settings_file: where they are.
    """
    places = find_places(settings, settings_file)
    folder = settings_file.parent
    generated = (folder / name for name in _GENERATED)
    beside = (folder / f"{name}.new" for name in _GENERATED)
    databases = (
        places.of[section].with_name(places.of[section].name + suffix)
        for section in Section
        if section in DATABASES and section in places.of
        for suffix in ("", "-wal", "-shm", ".lock")
    )
    trees = (
        place
        for section, place in places.of.items()
        if section is not Section.CONFIG and section not in DATABASES
    )
    return (*generated, *beside, *databases, *trees, *map(Path, _STATE))
