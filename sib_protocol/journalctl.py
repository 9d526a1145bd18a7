"""How systemd's journal is asked for the log of some units. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM: Final = "/usr/bin/journalctl"


def journalctl(
    units: Sequence[str],
    *,
    follow: bool = False,
    since_ns: int | None = None,
    lines: int | None = None,
    as_json: bool = False,
) -> tuple[str, ...]:
    """The command that shows a log.

    Args:
        units: full names, at least one; their records come merged, by time.
        follow: go on as records come.
        since_ns: from this time on, nanoseconds since 1970 UTC.
        lines: only the newest so many.
        as_json: one JSON object a line, with every field.
    """
    return (
        PROGRAM,
        "--output=json" if as_json else "--output=short-iso",
        *(f"--unit={unit}" for unit in units),
        *(("--follow",) if follow else ()),
        # By the epoch: the text would be read in whatever zone and form journalctl likes.
        *(() if since_ns is None else (f"--since=@{since_ns // 10**9}",)),
        *(() if lines is None else (f"--lines={lines}",)),
    )
