"""This host's units: which there are, and how systemd says they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sib_protocol.units import UnitState, ask_units

if TYPE_CHECKING:
    from collections.abc import Mapping

AGENT_UNIT: Final = "sib-agent.service"
FALCO_UNIT: Final = "sib-falco.service"
ALLOY_UNIT: Final = "sib-alloy.service"
TARGET: Final = "sib-agent.target"
UNITS: Final[Mapping[str, str]] = {
    "agent": AGENT_UNIT,
    "falco": FALCO_UNIT,
    "alloy": ALLOY_UNIT,
    "setup": "sib-agent-setup.service",
    "reload": "sib-falco-reload.service",
}
"""Component -> unit."""


def unit_states() -> list[UnitState] | None:
    """How the host's units are; ``None`` where systemd does not run or does not answer."""
    return ask_units(UNITS)
