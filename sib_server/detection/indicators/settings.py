"""The settings of threat intelligence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec

from sib_server.detection.indicators.catalogue import (
    FeedChange,
    FeedDefinition,
    UnknownFeedError,
    built_in,
    changed,
)

MOST_ADDRESSES: Final = 150_000
MOST_NETWORKS: Final = 20_000
MOST_DOMAINS: Final = 5_000
"""Hosts take so much, all at once: Falco's memory is bounded there (see docs/bundles.md)."""


class DownloadLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a download may cost."""

    wire_bytes: Annotated[
        int, msgspec.Meta(ge=1024, description="The most that is read from the network.")
    ] = 64 * 1024 * 1024
    bytes: Annotated[int, msgspec.Meta(ge=1024, description="The most after decompression.")] = (
        256 * 1024 * 1024
    )
    records: Annotated[
        int, msgspec.Meta(ge=1, description="The most entries that are taken from one feed.")
    ] = 1_000_000
    seconds: Annotated[
        float, msgspec.Meta(gt=0, description="The longest a download may take as a whole.")
    ] = 120.0
    idle_seconds: Annotated[
        float, msgspec.Meta(gt=0, description="The longest without a byte.")
    ] = 15.0
    redirects: Annotated[
        int, msgspec.Meta(ge=0, le=10, description="The most redirects that are followed.")
    ] = 3


class AdmissionLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much a feed may change from one version to the next."""

    shrink: Annotated[
        float, msgspec.Meta(ge=1, description="A feed may become this many times smaller.")
    ] = 3.0
    grow: Annotated[float, msgspec.Meta(ge=1, description="Or this many times larger.")] = 5.0
    days: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            le=366,
            description="Larger than at its smallest in so many days, too, so that no feed grows"
            " without bound by small steps; 0: than its last version only.",
        ),
    ] = 7
    small: Annotated[
        int, msgspec.Meta(ge=0, description="Below so many entries neither is looked at.")
    ] = 50
    rejected: Annotated[
        float,
        msgspec.Meta(
            ge=0,
            le=1,
            description="The largest share of entries that may be no indicators, 0 to 1.",
        ),
    ] = 0.5


class ShippingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What hosts are given."""

    confidence: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            le=100,
            description="The least confidence at which an indicator is shipped; those below are"
            " still looked up on the server.",
        ),
    ] = 50
    addresses: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            le=MOST_ADDRESSES,
            description="The most addresses shipped, the most confident first.",
        ),
    ] = 100_000
    networks: Annotated[
        int, msgspec.Meta(ge=0, le=MOST_NETWORKS, description="The most networks shipped.")
    ] = 10_000
    domains: Annotated[
        int, msgspec.Meta(ge=0, le=MOST_DOMAINS, description="The most domains shipped.")
    ] = 2_000
    inbound_networks: Annotated[
        bool,
        msgspec.Meta(
            description="Compare incoming connections with networks too; costs about as much"
            " again as outgoing ones."
        ),
    ] = False


class IntelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Threat intelligence."""

    directory: Annotated[
        Path, msgspec.Meta(description="Where indicators and the feeds' state are kept.")
    ] = Path("/var/lib/sib-server/intel")
    feeds: Annotated[
        dict[str, FeedChange], msgspec.Meta(description="Changes to feeds that SIB knows, by name.")
    ] = {}
    more_feeds: Annotated[
        tuple[FeedDefinition, ...], msgspec.Meta(description="Feeds of your own.")
    ] = ()
    own: Annotated[
        tuple[str, ...],
        msgspec.Meta(
            description="Further addresses, networks and names of your own, never indicators."
        ),
    ] = ()
    allowed: Annotated[
        tuple[str, ...],
        msgspec.Meta(description="An allow list beside the one of ``intel allow``."),
    ] = ()
    shortest_ipv4: Annotated[
        int,
        msgspec.Meta(
            ge=8, le=32, description="A network with a shorter prefix is never an indicator."
        ),
    ] = 11
    shortest_ipv6: Annotated[int, msgspec.Meta(ge=16, le=128, description="The same for IPv6.")] = (
        28
    )
    download: DownloadLimits = DownloadLimits()
    admission: AdmissionLimits = AdmissionLimits()
    shipping: ShippingSettings = ShippingSettings()
    trust: Annotated[
        Path | None,
        msgspec.Meta(
            description="A file of CA certificates (PEM) to verify feeds with instead of the"
            " system's."
        ),
    ] = None


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
