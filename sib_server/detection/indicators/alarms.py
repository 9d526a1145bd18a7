"""Event lines that SIB writes about its feeds, and the file that carries them to the journal."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from sib_protocol.errors import FileAccessError
from sib_protocol.events import Priority, sib_event

if TYPE_CHECKING:
    from pathlib import Path

    from sib_server.detection.indicators.admission import Trouble

EVENTS_NAME: Final = "events.jsonl"
_MAX_BYTES: Final = 4 * 1024 * 1024

REFUSED_RULE: Final = "SIB intel feed refused"
RECOVERED_RULE: Final = "SIB intel feed recovered"
SEEN_RULE: Final = "SIB intel seen before"


def refused_event(
    feed: str, trouble: Trouble, reason: str, *, kept: int | None, time_ns: int
) -> bytes:
    """The event for a feed that was not taken and whose last good version stays.

    Args:
        feed: its name.
        trouble: the kind.
        reason: the same as a sentence.
        kept: how many indicators the last good version has; ``None``: there is none.
        time_ns: nanoseconds since 1970 UTC.
    """
    stays = "there is no earlier version" if kept is None else f"{kept} indicators of before stay"
    return sib_event(
        rule=REFUSED_RULE,
        priority=Priority.WARNING,
        time_ns=time_ns,
        output=f"Feed {feed} was not taken: {reason}; {stays}",
        fields={
            "sib.feed": feed,
            "sib.trouble": trouble.value,
            "sib.reason": reason,
            "sib.kept": kept or 0,
        },
    )


def recovered_event(feed: str, indicators: int, *, time_ns: int) -> bytes:
    """The event for a feed that is taken again."""
    return sib_event(
        rule=RECOVERED_RULE,
        priority=Priority.NOTICE,
        time_ns=time_ns,
        output=f"Feed {feed} is taken again: {indicators} indicators",
        fields={"sib.feed": feed, "sib.indicators": indicators},
    )


class EventsFile:
    """Appends event lines to a file, each durable before the call returns.

    The server takes lines from there into its journal. One earlier file is kept, so the file's
    size is bounded even where nothing takes them.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / EVENTS_NAME

    def __call__(self, line: bytes) -> None:
        """Append one line.

        Raises:
            FileAccessError: the file cannot be written.
        """
        try:
            if self._path.exists() and self._path.stat().st_size > _MAX_BYTES:
                self._path.replace(self._path.with_suffix(".jsonl.1"))
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            descriptor = os.open(self._path, flags, 0o640)
            try:
                os.write(descriptor, line + b"\n")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise FileAccessError(self._path, error.strerror or str(error)) from error
