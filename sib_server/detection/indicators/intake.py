"""From a download to what may be taken of it, and what that needs to know."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sib_protocol.errors import FileAccessError
from sib_server.detection.indicators.admission import (
    Refusal,
    Trouble,
    judge_bytes,
    judge_reading,
)
from sib_server.detection.indicators.catalogue import FeedDefinition, built_in
from sib_server.detection.indicators.exclusions import Exclusions, WidthLimits
from sib_server.detection.indicators.fetch import Download, Validators
from sib_server.detection.indicators.formats.reader import read_feed
from sib_server.detection.indicators.merge import Sighting, fold
from sib_server.detection.indicators.state import load_allowed
from sib_server.detection.indicators.unpack import RefusedDownloadError, unpack

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sib_server.detection.indicators.kinds import Observable
    from sib_server.detection.indicators.settings import IntelSettings


def make_exclusions(settings: IntelSettings, own: Iterable[str]) -> Exclusions:
    """What can never be an indicator here.

    Args:
        settings: own values, allow list and widths.
        own: further addresses and names of the server and its hosts.
    """
    allowed = [line.value for line in load_allowed(settings.directory).values]
    return Exclusions(
        own=[*settings.own, *own],
        allowed=[*settings.allowed, *allowed],
        shared=built_in().shared_domains,
        widths=WidthLimits(settings.shortest_ipv4, settings.shortest_ipv6),
    )


def make_trust(settings: IntelSettings) -> ssl.SSLContext:
    """What verifies feeds' servers.

    Raises:
        FileAccessError: the file of CA certificates cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=settings.trust)
    except OSError as error:
        reason = f"not CA certificates: {error.strerror or error}"
        raise FileAccessError(settings.trust or Path(), reason) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def read_file(path: Path, settings: IntelSettings) -> Download:
    """A feed's content from a file, within the same limits as from the network.

    Raises:
        FileAccessError: it cannot be read.
        RefusedDownloadError: too large or damaged.
    """
    limits = settings.download
    try:
        with path.open("rb") as file:
            content = file.read(limits.wire_bytes + 1)
    except OSError as error:
        raise FileAccessError(path, error.strerror or str(error)) from error
    if len(content) > limits.wire_bytes:
        reason = f"it is larger than {limits.wire_bytes} bytes"
        raise RefusedDownloadError(Refusal(Trouble.TOO_LARGE, reason))
    return Download(unpack(content, limits.bytes), Validators())


@dataclass(frozen=True, slots=True)
class Judged:
    """A download that may be taken."""

    sightings: dict[Observable, Sighting]
    rejected: int
    excluded: dict[str, int]


def judge(
    content: bytes,
    feed: FeedDefinition,
    settings: IntelSettings,
    exclusions: Exclusions,
    *,
    previous: int | None,
    lowest: int | None = None,
    now: int,
) -> Judged | Refusal:
    """Read a download and decide about it. Pure.

    Args:
        content: unpacked.
        feed: how it is written.
        settings: limits.
        exclusions: what can never be an indicator.
        previous: how many indicators the last good version had; ``None``: any number is fine.
        lowest: the smallest number of late, where that is less.
        now: seconds since 1970 UTC.
    """
    refusal = judge_bytes(content)
    if refusal is not None:
        return refusal
    reading = read_feed(content, feed.shape, max_records=settings.download.records)
    folded = fold(
        feed.name,
        reading.records,
        now=now,
        confidence=feed.confidence,
        expires_days=feed.expires_days,
    )
    excluded: dict[str, int] = {}
    usable: dict[Observable, Sighting] = {}
    for observable, sighting in folded.items():
        why = exclusions.why(observable)
        if why is None:
            usable[observable] = sighting
        else:
            excluded[why.value] = excluded.get(why.value, 0) + 1
    refusal = judge_reading(
        reading,
        len(usable),
        previous,
        settings.admission,
        lowest=lowest,
        may_be_empty=feed.may_be_empty,
    )
    return refusal or Judged(usable, reading.rejected, excluded)
