"""The settings of threat intelligence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from sib_server.detection.indicators.catalogue import (
    FeedChange,
    FeedDefinition,
    UnknownFeedError,
    built_in,
    changed,
)


class DownloadLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a download may cost.

    Attributes:
        wire_bytes: the most that is read from the network.
        bytes: the most after decompression.
        records: the most entries that are taken from one feed.
        seconds: the longest a download may take as a whole.
        idle_seconds: the longest without a byte.
        redirects: the most redirects that are followed.
    """

    wire_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 64 * 1024 * 1024
    bytes: Annotated[int, msgspec.Meta(ge=1024)] = 256 * 1024 * 1024
    records: Annotated[int, msgspec.Meta(ge=1)] = 1_000_000
    seconds: Annotated[float, msgspec.Meta(gt=0)] = 120.0
    idle_seconds: Annotated[float, msgspec.Meta(gt=0)] = 15.0
    redirects: Annotated[int, msgspec.Meta(ge=0, le=10)] = 3


class AdmissionLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much a feed may change from one version to the next.

    Attributes:
        shrink: a feed may become this many times smaller.
        grow: or this many times larger.
        small: below so many entries neither is looked at.
        rejected: the largest share of entries that may be no indicators, 0 to 1.
    """

    shrink: Annotated[float, msgspec.Meta(ge=1)] = 3.0
    grow: Annotated[float, msgspec.Meta(ge=1)] = 5.0
    small: Annotated[int, msgspec.Meta(ge=0)] = 50
    rejected: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5


class ShippingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What hosts are given.

    Attributes:
        confidence: the least confidence at which an indicator is shipped; those below are still
            looked up on the server.
        addresses: the most addresses shipped, the most confident first.
        networks: the most networks shipped.
        domains: the most domains shipped.
        inbound_networks: compare incoming connections with networks too; costs about as much again
            as outgoing ones.
    """

    confidence: Annotated[int, msgspec.Meta(ge=0, le=100)] = 50
    addresses: Annotated[int, msgspec.Meta(ge=0, le=500_000)] = 100_000
    networks: Annotated[int, msgspec.Meta(ge=0, le=50_000)] = 10_000
    domains: Annotated[int, msgspec.Meta(ge=0, le=20_000)] = 2_000
    inbound_networks: bool = False


class IntelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Threat intelligence.

    Attributes:
        directory: where indicators and the feeds' state are kept.
        feeds: changes to feeds that SIB knows, by name.
        more_feeds: feeds of your own.
        own: further addresses, networks and names of your own, never indicators.
        allowed: an allow list beside the one of ``intel allow``.
        shortest_ipv4: a network with a shorter prefix is never an indicator.
        shortest_ipv6: the same for IPv6.
        download: what a download may cost.
        admission: how much a feed may change.
        shipping: what hosts are given.
        trust: a file of CA certificates (PEM) to verify feeds with instead of the system's.
    """

    directory: Path = Path("/var/lib/sib-server/intel")
    feeds: dict[str, FeedChange] = {}
    more_feeds: tuple[FeedDefinition, ...] = ()
    own: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    shortest_ipv4: Annotated[int, msgspec.Meta(ge=8, le=32)] = 11
    shortest_ipv6: Annotated[int, msgspec.Meta(ge=16, le=128)] = 28
    download: DownloadLimits = DownloadLimits()
    admission: AdmissionLimits = AdmissionLimits()
    shipping: ShippingSettings = ShippingSettings()
    trust: Path | None = None


def all_feeds(settings: IntelSettings) -> tuple[FeedDefinition, ...]:
    """Every feed as the settings want it, in the catalogue's order; an own one may replace one.

    Raises:
        UnknownFeedError: the settings change a feed that is not known.
    """
    known = {feed.name: feed for feed in built_in().feeds}
    for name, change in settings.feeds.items():
        if name not in known:
            raise UnknownFeedError(name, tuple(known))
        known[name] = changed(known[name], change)
    for feed in settings.more_feeds:
        known[feed.name] = feed
    return tuple(known.values())
