"""Looking values up among the indicators, in microseconds and without growing memory."""

from __future__ import annotations

import ipaddress
import sqlite3
import threading
import time
from array import array
from bisect import bisect_left
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from sib_server.detection.indicators.exclusions import IPNetwork, Ranges, parents
from sib_server.detection.indicators.kinds import (
    Kind,
    Observable,
    parse_hash,
    recognise,
    url_host,
)
from sib_server.detection.indicators.merge import AGREEMENT, Indicator, Sighting, join
from sib_server.detection.indicators.store import (
    FILE_NAME,
    FORMAT,
    DamagedStoreError,
    fingerprint,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_MAP_BYTES: Final = 1 << 30
_SIGHTING: Final = (
    "feed.name, first_seen, last_seen, added, expires, confidence, note "
    "FROM sighting JOIN feed ON feed.id = sighting.feed"
)


class Relation(Enum):
    """How a value that was looked up meets an indicator."""

    EXACT = "exact"
    INSIDE = "inside"
    """An address in a network, or a network in a wider one."""

    BELOW = "below"
    """A domain below a domain."""

    HOST = "host"
    """A URL whose host is one, lies in one or below one."""


@dataclass(frozen=True, slots=True)
class Match:
    """An indicator that a value meets.

    Attributes:
        asked: the value in canonical spelling.
        indicator: what it meets.
        relation: how.
    """

    asked: Observable
    indicator: Indicator
    relation: Relation


def _check_format(connection: sqlite3.Connection, path: Path) -> None:
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found != FORMAT:
        raise DamagedStoreError(path, f"its format is {found}, not {FORMAT}")


def _alive(observable: Observable, sightings: list[Sighting], now: float) -> Indicator | None:
    """An indicator from what has not expired since the last update."""
    alive = [sighting for sighting in sightings if sighting.expires > now]
    return join(observable, alive) if alive else None


def _living(
    observable: Observable | None, sightings: list[Sighting], now: float
) -> Iterator[Indicator]:
    indicator = _alive(observable, sightings, now) if observable is not None else None
    if indicator is not None:
        yield indicator


class Index:
    """One generation of indicators, opened for reading.

    Holds 8 bytes of memory an indicator, and the networks' ranges. May be used by several threads.
    """

    def __init__(
        self,
        connection: sqlite3.Connection | None,
        generation: tuple[int, int],
        clock: Callable[[], float],
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._lock = threading.Lock()
        self.generation = generation
        self._prints = array("Q")
        self.updated = 0
        networks: list[IPNetwork] = []
        if connection is not None:
            meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
            self._prints.frombytes(meta["fingerprints"])
            self.updated = int(meta["updated"])
            networks = [
                ipaddress.ip_network(value)
                for (value,) in connection.execute(
                    "SELECT DISTINCT value FROM sighting WHERE kind = ?", (Kind.NETWORK.code,)
                )
            ]
        self._ranges = Ranges(networks)
        self._prefixes = {
            family: sorted(
                {network.prefixlen for network in networks if network.version == family},
                reverse=True,
            )
            for family in (4, 6)
        }

    @classmethod
    def open(cls, directory: Path, clock: Callable[[], float] = time.time) -> Index:
        """Open the present generation; an empty index where there is none yet.

        Raises:
            DamagedStoreError: the file is not one of ours or damaged.
        """
        path = directory / FILE_NAME
        try:
            status = path.stat()
        except FileNotFoundError:
            return cls(None, (0, 0), clock)
        try:
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False
            )
            try:
                connection.execute(f"PRAGMA mmap_size = {_MAP_BYTES}")
                _check_format(connection, path)
                return cls(connection, (status.st_ino, status.st_mtime_ns), clock)
            except BaseException:
                connection.close()
                raise
        except (sqlite3.Error, KeyError, ValueError) as error:
            raise DamagedStoreError(path, str(error)) from error

    def is_current(self, directory: Path) -> bool:
        """Whether no update has put a newer generation in place."""
        try:
            status = (directory / FILE_NAME).stat()
        except FileNotFoundError:
            return self.generation == (0, 0)
        return self.generation == (status.st_ino, status.st_mtime_ns)

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()

    def __len__(self) -> int:
        return len(self._prints)

    def _may_hold(self, observable: Observable) -> bool:
        wanted = fingerprint(observable)
        at = bisect_left(self._prints, wanted)
        return at < len(self._prints) and self._prints[at] == wanted

    def find(self, observable: Observable) -> Indicator | None:
        """The indicator that is exactly this value, or ``None``."""
        if self._connection is None or not self._may_hold(observable):
            return None
        with self._lock:
            rows = self._connection.execute(
                f"SELECT {_SIGHTING} WHERE kind = ? AND value = ?",
                (observable.kind.code, observable.value),
            ).fetchall()
        return _alive(observable, [Sighting(*row) for row in rows], self._clock())

    def matches(self, observable: Observable) -> list[Match]:
        """Every indicator that a value meets: itself, what it lies in, what it leads to."""
        found = []
        exact = self.find(observable)
        if exact is not None:
            found.append(Match(observable, exact, Relation.EXACT))
        if observable.kind in (Kind.ADDRESS, Kind.NETWORK):
            found += self._around(observable)
        elif observable.kind is Kind.DOMAIN:
            found += self._above(observable)
        elif observable.kind is Kind.URL:
            host = url_host(observable)
            if host is not None:
                found += [
                    Match(observable, match.indicator, Relation.HOST)
                    for match in self.matches(host)
                ]
        return found

    def _around(self, observable: Observable) -> Iterator[Match]:
        network = ipaddress.ip_network(observable.value)
        if not self._ranges.touches(network):
            return
        for length in self._prefixes[network.version]:
            if length < network.prefixlen:
                wider = Observable(Kind.NETWORK, str(network.supernet(new_prefix=length)))
                indicator = self.find(wider)
                if indicator is not None:
                    yield Match(observable, indicator, Relation.INSIDE)

    def _above(self, observable: Observable) -> Iterator[Match]:
        for parent in parents(observable.value)[1:-1]:
            indicator = self.find(Observable(Kind.DOMAIN, parent))
            if indicator is not None:
                yield Match(observable, indicator, Relation.BELOW)

    def lookup(self, text: str) -> list[Match] | None:
        """Every indicator that a text as people write it meets.

        Returns:
            ``None`` where the text is nothing that can be an indicator.
        """
        observable = recognise(text)
        if observable is None:
            return None
        found = self.matches(observable)
        if observable.kind is Kind.SHA1:
            certificate = parse_hash(observable.value, Kind.CERTIFICATE)
            found += self.matches(certificate) if certificate else []
        return found

    def indicators(self) -> Iterator[Indicator]:
        """All indicators, by kind and value."""
        if self._connection is None:
            return
        cursor = self._connection.cursor()
        now = self._clock()
        query = f"SELECT kind, value, {_SIGHTING} ORDER BY kind, value"
        current: Observable | None = None
        sightings: list[Sighting] = []
        for code, value, *rest in cursor.execute(query):
            observable = Observable(Kind.from_code(code), value)
            if observable != current:
                yield from _living(current, sightings, now)
                current, sightings = observable, []
            sightings.append(Sighting(*rest))
        yield from _living(current, sightings, now)

    def has_added(self, since: int) -> bool:
        """Whether SIB got to know any indicator at or after that time, seconds since 1970 UTC."""
        if self._connection is None:
            return False
        query = "SELECT 1 FROM sighting WHERE added >= ? LIMIT 1"
        return self._connection.execute(query, (since,)).fetchone() is not None

    def confidences(
        self, kinds: Sequence[Kind], visible: Callable[[str], bool]
    ) -> dict[Kind, dict[int, int]]:
        """How many living indicators there are of each kind and confidence.

        Much quicker than to go through :meth:`indicators`.

        Args:
            kinds: those that are asked about.
            visible: whether a domain counts.
        """
        if self._connection is None:
            return {}
        self._connection.create_function("visible", 1, visible, deterministic=True)
        marks = ", ".join("?" * len(kinds))
        rows = self._connection.execute(
            "SELECT kind, confidence, count(*) FROM ("  # noqa: S608 - marks alone
            "SELECT kind, value, min(100, max(confidence) + ? * (count(*) - 1)) AS confidence "
            f"FROM sighting WHERE expires > ? AND kind IN ({marks}) GROUP BY kind, value) "
            "WHERE kind <> ? OR visible(value) GROUP BY kind, confidence",
            (AGREEMENT, self._clock(), *(kind.code for kind in kinds), Kind.DOMAIN.code),
        )
        found: dict[Kind, dict[int, int]] = {}
        for code, confidence, count in rows:
            found.setdefault(Kind.from_code(code), {})[confidence] = count
        return found

    def counts(self) -> dict[Kind, int]:
        """How many indicators there are of each kind."""
        if self._connection is None:
            return {}
        rows = self._connection.execute(
            "SELECT kind, count(DISTINCT value) FROM sighting GROUP BY kind ORDER BY kind"
        )
        return {Kind.from_code(code): count for code, count in rows}
