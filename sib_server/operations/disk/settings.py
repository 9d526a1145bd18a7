"""The disk guard's settings, as they stand in ``/etc/sib/server.yaml`` under ``disk``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

HOUR_NS: Final = 3600 * 10**9
OVERRIDES: Final = "loki-overrides.yaml"
DECISION: Final = "decision.json"


class DiskSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much room journal, Loki and Prometheus may take together."""

    budget_bytes: Annotated[
        Annotated[int, Meta(ge=1024**3)] | None,
        Meta(description="Together; none: only share and reserve of the file system count."),
    ] = None
    share: Annotated[
        float,
        Meta(gt=0, le=1, description="Of a file system, for what of the three lies on it."),
    ] = 0.8
    reserve_bytes: Annotated[
        int, Meta(ge=0, description="What stays free of a file system, whoever fills it.")
    ] = 2 * 1024**3
    keep_hours: Annotated[
        int,
        Meta(ge=24, description="What is younger is never given up; Loki cannot keep less."),
    ] = 24
    directory: Annotated[
        Path, Meta(description="The guard's decisions; root writes, server and Loki read.")
    ] = Path("/var/lib/sib-disk-guard")
    loki_directory: Annotated[Path, Meta(description="A local Loki's.")] = Path("/var/lib/sib-loki")
    prometheus_directory: Annotated[Path, Meta(description="A local Prometheus'.")] = Path(
        "/var/lib/sib-prometheus"
    )

    @property
    def keep_ns(self) -> int:
        """``keep_hours`` in nanoseconds."""
        return self.keep_hours * HOUR_NS
