"""The settings of bundles."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from sib_server.detection.bundles.expiries import Expiries
from sib_server.detection.bundles.rollout import RolloutPolicy

Days = Annotated[float, Meta(ge=0.01, le=36500)]


class BundleSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How rules are signed and brought to the hosts."""

    directory: Annotated[
        Path,
        Meta(description="The TUF repository and its keys. Back it up; the keys are secret."),
    ] = Path("/var/lib/sib-server/bundles")
    pulls_per_second: Annotated[
        float,
        Meta(
            gt=0,
            le=10_000,
            description="How many hosts are sent to fetch a new bundle each second; the others are"
            " told to wait for their turn, so that events are not delayed.",
        ),
    ] = 40.0
    transfers: Annotated[
        int, Meta(ge=1, le=10_000, description="How many parts may be under way at once.")
    ] = 64
    soak_minutes: Annotated[
        float,
        Meta(ge=0, description="How long canaries have to stay well before all hosts follow."),
    ] = 30.0
    failed_percent: Annotated[
        float,
        Meta(
            ge=0,
            le=100,
            description="A rollout is stopped when more of its hosts than this failed: rolled the"
            " bundle back, refused it, or went silent.",
        ),
    ] = 5.0
    silent_minutes: Annotated[
        float,
        Meta(gt=0, description="A host that was sent the bundle and is silent so long has failed."),
    ] = 5.0
    keep: Annotated[
        int, Meta(ge=2, le=1000, description="How many released bundles can be rolled back to.")
    ] = 20
    root_days: Annotated[Days, Meta(description="How long a root is valid.")] = 1826.0
    targets_days: Annotated[Days, Meta(description="How long the list of targets is valid.")] = 90.0
    snapshot_days: Annotated[Days, Meta(description="How long a snapshot is valid.")] = 14.0
    timestamp_days: Annotated[
        Days,
        Meta(
            description="How long a timestamp is valid, and so how old an answer a host takes"
            " from whoever holds it back. The running server signs a new one at half of it."
        ),
    ] = 2.0

    def expiries(self) -> Expiries:
        """As the repository takes it."""
        return Expiries(
            root=timedelta(days=self.root_days),
            targets=timedelta(days=self.targets_days),
            snapshot=timedelta(days=self.snapshot_days),
            timestamp=timedelta(days=self.timestamp_days),
        )

    def policy(self) -> RolloutPolicy:
        """As rollouts are judged by."""
        return RolloutPolicy(
            soak_ns=int(self.soak_minutes * 60e9),
            silent_ns=int(self.silent_minutes * 60e9),
            failed_percent=self.failed_percent,
        )
