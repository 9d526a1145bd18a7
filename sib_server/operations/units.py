"""The server's units: which there are, and how systemd says they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sib_protocol.units import UnitState, ask_units

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["TARGET", "UNITS", "UnitState", "unit_states"]

UNITS: Final[Mapping[str, str]] = {
    "server": "sib-server.service",
    "setup": "sib-server-setup.service",
    "loki": "sib-loki.service",
    "prometheus": "sib-prometheus.service",
    "grafana": "sib-grafana.service",
    "falcosidekick": "sib-falcosidekick.service",
    "disk-guard": "sib-server-disk-guard.service",
}
"""Component -> unit."""

TARGET: Final = "sib-server.target"


def unit_states() -> list[UnitState] | None:
    """How the server's units are; ``None`` where systemd does not run or does not answer."""
    return ask_units(UNITS)
