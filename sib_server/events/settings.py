"""The journal's part of the server's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from sib_server.events.retention import RetentionPolicy
from sib_server.events.writer import WriterLimits

_DAY_NS = 24 * 3600 * 1_000_000_000


class JournalSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the journal is and how much it keeps."""

    path: Annotated[Path, Meta(description="The journal's file; -wal, -shm, .lock lie beside.")] = (
        Path("/var/lib/sib-server/journal/journal.db")
    )
    outbox: Annotated[
        Path | None,
        Meta(
            description="Where commands put events that the server takes into the journal; null:"
            " outbox, beside the journal's file."
        ),
    ] = None
    retention_days: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="Events received longer ago go, once every sink has them."),
    ] = 90.0
    retention_bytes: Annotated[
        Annotated[int, Meta(ge=1024 * 1024)] | None,
        Meta(description="Above this size the oldest go, once every sink has them."),
    ] = 20 * 1024**3
    waiting_events: Annotated[
        int, Meta(ge=1, description="How many events may wait in memory before hosts get a 503.")
    ] = 200_000
    waiting_bytes: Annotated[int, Meta(ge=1, description="Likewise in bytes of event lines.")] = (
        128 * 1024**2
    )

    @property
    def outbox_directory(self) -> Path:
        """The outbox's place."""
        return self.outbox or self.path.parent / "outbox"

    def retention(self) -> RetentionPolicy:
        """The policy for ``retention.prune_step``."""
        days = self.retention_days
        return RetentionPolicy(None if days is None else int(days * _DAY_NS), self.retention_bytes)

    def limits(self) -> WriterLimits:
        """The limits for ``JournalWriter``."""
        return WriterLimits(waiting_events=self.waiting_events, waiting_bytes=self.waiting_bytes)
