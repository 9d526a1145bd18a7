"""What of SIB is on a host, for ``sib-agent uninstall``. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from sib_agent.setup.falco_config import probe_path

if TYPE_CHECKING:
    from sib_agent.settings import AgentSettings

PACKAGES: Final = ("sib-falco", "sib-alloy", "sib-agent")
_STATE: Final = ("/var/lib/sib-alloy", "/var/lib/sib-falco", "/var/lib/sib-agent", "/run/sib-falco")


def own_paths(settings: AgentSettings) -> tuple[Path, ...]:
    """Everything that SIB wrote on this host.

    Of directories that the settings name, only those that are SIB's alone: the folder of the
    events file may be somebody else's.
    """
    generated = (settings.falco.config, probe_path(settings.falco), settings.alloy.config)
    beside = (
        path.with_name(path.name + suffix) for path in generated for suffix in ("", ".new", ".old")
    )
    own = (
        settings.identity.directory,
        settings.spool.directory,
        settings.falco.bundles,
        settings.bundles.state,
    )
    return (*beside, *own, *map(Path, _STATE))
