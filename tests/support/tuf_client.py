"""python-tuf's own client over a shelf or a folder, without a network: what any TUF client sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater

from sib_server.detection.bundles.shelf import Shelf


class ShelfFetcher(FetcherInterface):
    def __init__(self, shelf: Callable[[], Shelf]) -> None:
        self._shelf = shelf

    def _fetch(self, url: str) -> Iterator[bytes]:
        kind, _, name = urlsplit(url).path.strip("/").partition("/")
        shelf = self._shelf()
        found = (shelf.metadata if kind == "metadata" else shelf.targets).get(name)
        if found is None:
            raise DownloadHTTPError("not there", 404)
        return iter([found.content])


def updater(
    directory: Path, root: bytes, shelf: Callable[[], Shelf], now: datetime | None = None
) -> Updater:
    for path in (directory / "metadata", directory / "targets"):
        path.mkdir(parents=True, exist_ok=True)
    made = Updater(
        str(directory / "metadata"),
        "https://sib/metadata/",
        str(directory / "targets"),
        "https://sib/targets/",
        fetcher=ShelfFetcher(shelf),
        bootstrap=root,
    )
    if now is not None:
        made._trusted_set.reference_time = now
    return made
