"""The settings of backups, as they stand in ``/etc/sib/server.yaml``."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class BackupSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How backups are encrypted."""

    recipients: Annotated[
        tuple[str, ...],
        Meta(
            max_length=32,
            description="Public keys (age1…) that backups are made for, when the command names"
            " none. The secret half belongs elsewhere.",
        ),
    ] = ()
