"""The names of this host's units."""

from __future__ import annotations

from typing import Final

AGENT_UNIT: Final = "sib-agent.service"
FALCO_UNIT: Final = "sib-falco.service"
ALLOY_UNIT: Final = "sib-alloy.service"
UNITS: Final = (AGENT_UNIT, FALCO_UNIT, ALLOY_UNIT)
TARGET: Final = "sib-agent.target"
