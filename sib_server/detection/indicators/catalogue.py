"""The feeds: those that SIB knows, changed and added to by settings."""

from __future__ import annotations

import importlib.resources
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated

import msgspec
import yaml

from sib_protocol.errors import ExitCode, SibError
from sib_server.detection.indicators.formats.shape import Shape

FeedName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
Confidence = Annotated[int, msgspec.Meta(ge=0, le=100)]


class KeyPlace(Enum):
    """Where a feed's owner wants its key in a request."""

    HEADER = "header"
    QUERY = "query"


class KeyUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a feed is given the key that its owner wants.

    Attributes:
        place: in a header or in the query; a query is left out of every message and log.
        name: the header's or parameter's name.
    """

    place: KeyPlace
    name: str


class FeedDefinition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A feed: where it is, how it is written, and what its owner asks for.

    Attributes:
        name: short and fixed; names the feed in commands, settings and events.
        title: for people.
        url: https; http only on loopback.
        licence: what its owner says, in short.
        licence_url: where its owner says it.
        enabled: part of ``update`` without being named.
        interval: the shortest time between two downloads, seconds.
        confidence: 0 to 100, of entries for which the feed says none.
        expires_days: an entry that the feed names no more is dropped after so many days.
        shape: how it is written.
        key: how it wants its key; ``None``: it wants none.
        key_file: where the key is; readable by SIB alone.
        internal: the address may be a private one, as that of an own MISP is.
        may_be_empty: a download without entries is accepted instead of refused.
    """

    name: FeedName
    url: str
    licence: str
    title: str = ""
    licence_url: str = ""
    enabled: bool = False
    interval: Annotated[int, msgspec.Meta(ge=60)] = 3600
    confidence: Confidence = 50
    expires_days: Annotated[int, msgspec.Meta(ge=1, le=3650)] = 30
    shape: Shape = Shape()
    key: KeyUse | None = None
    key_file: Path | None = None
    internal: bool = False
    may_be_empty: bool = False


class FeedChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What settings change of a known feed.

    Attributes:
        enabled: on or off.
        url: another place, such as a mirror.
        interval: longer than the owner asks for; a shorter one is not taken.
        confidence: 0 to 100.
        expires_days: days.
        key_file: where the feed's key is.
        internal: the place may have a private address.
        may_be_empty: a download without entries is accepted.
    """

    enabled: bool | None = None
    url: str | None = None
    interval: int | None = None
    confidence: Confidence | None = None
    expires_days: int | None = None
    key_file: Path | None = None
    internal: bool | None = None
    may_be_empty: bool | None = None


class Catalogue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All feeds, and the domains that strangers share."""

    feeds: tuple[FeedDefinition, ...]
    shared_domains: tuple[str, ...] = ()


class UnknownFeedError(SibError):
    """A feed that neither the catalogue nor the settings have."""

    exit_code = ExitCode.NOT_FOUND

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(
            f"there is no feed {name!r}",
            f"the feeds are {', '.join(known)}; add others under intel.more_feeds in the settings",
        )
        self.name = name


@cache
def built_in() -> Catalogue:
    """The feeds that come with SIB."""
    text = importlib.resources.files(__package__).joinpath("feeds.yaml").read_text("utf-8")
    return msgspec.convert(yaml.safe_load(text), Catalogue)


def changed(feed: FeedDefinition, change: FeedChange) -> FeedDefinition:
    """A feed with a change of settings; its owner's interval is never shortened."""
    values = {
        name: value
        for name in change.__struct_fields__
        if (value := getattr(change, name)) is not None
    }
    if "interval" in values:
        values["interval"] = max(values["interval"], feed.interval)
    return msgspec.structs.replace(feed, **values)


def find_feed(feeds: tuple[FeedDefinition, ...], name: str) -> FeedDefinition:
    """A feed by its name.

    Raises:
        UnknownFeedError: there is none.
    """
    for feed in feeds:
        if feed.name == name:
            return feed
    raise UnknownFeedError(name, tuple(feed.name for feed in feeds))
