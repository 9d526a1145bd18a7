"""Progress of feeds on a terminal."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn


class FeedProgress:
    """Progress on a terminal, silence elsewhere."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> FeedProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, feed: str) -> None:
        """A feed is asked now."""
        self._progress.reset(self._task, description=feed, total=None)

    def progress(self, taken: int, total: int | None) -> None:
        """So many bytes of it have come, of so many where that is known."""
        self._progress.update(self._task, completed=taken, total=total)
