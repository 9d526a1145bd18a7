"""Downloading a feed that is not trusted: bounded in size, time and in where it may lead.

TLS is always verified. A connection to an address that is not of the internet is closed before a
byte is sent, after the name was resolved, so a name that changes its address gains nothing. A timer
ends a download as a whole, however slowly its bytes drip.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

import urllib3
from urllib3 import exceptions as errors
from urllib3.connection import HTTPConnection, HTTPSConnection

from sib_protocol import __version__
from sib_server.detection.indicators.admission import Trouble
from sib_server.detection.indicators.catalogue import FeedDefinition, KeyPlace
from sib_server.detection.indicators.places import (
    check_url,
    is_loopback,
    is_public,
    joined,
    origin_of,
)
from sib_server.detection.indicators.unpack import RefusedDownloadError, gunzip, refuse, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from urllib.parse import SplitResult

    from urllib3 import BaseHTTPResponse

    from sib_server.detection.indicators.settings import DownloadLimits

USER_AGENT: Final = f"sib/{__version__} (+SIEM in a Box, threat intelligence)"
_MAX_RETRY_AFTER: Final = 7 * 86_400.0
_MAX_KEY: Final = 512


Progress = Callable[[int, int | None], None]
"""Is told bytes taken and, where the server says it, bytes in all."""


def _no_progress(taken: int, total: int | None) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True)
class Validators:
    """What a server called the version we have."""

    etag: str = ""
    last_modified: str = ""


@dataclass(frozen=True, slots=True)
class Download:
    """What came of asking.

    Attributes:
        content: unpacked; ``None``: the server says that our version is still the newest.
        validators: for the next request.
    """

    content: bytes | None
    validators: Validators


@dataclass(slots=True)
class _Watch:
    """The socket that is in use, so that the timer can end it."""

    private_allowed: bool
    held: socket.socket | None = None
    expired: bool = False

    def take(self, connected: socket.socket) -> socket.socket:
        peer = connected.getpeername()[0]
        if not self.private_allowed and not is_public(peer):
            connected.close()
            raise refuse(Trouble.REDIRECT, f"it leads to {peer}, which is not of the internet")
        # A copy: TLS takes the original away and closes it on its own terms.
        self.held = connected.dup()
        if self.expired:
            self.end()
        return connected

    def end(self) -> None:
        self.expired = True
        if self.held is not None:
            with suppress(OSError):
                self.held.shutdown(socket.SHUT_RDWR)


class _PlainConnection(HTTPConnection):
    """A connection whose far end is looked at before anything is sent."""

    watch: _Watch

    def _new_conn(self) -> socket.socket:
        return self.watch.take(super()._new_conn())


class _TlsConnection(HTTPSConnection):
    """The same under TLS."""

    watch: _Watch

    def _new_conn(self) -> socket.socket:
        return self.watch.take(super()._new_conn())


def _pool(
    parts: SplitResult, watch: _Watch, limits: DownloadLimits, trust: ssl.SSLContext
) -> urllib3.HTTPConnectionPool:
    plain = type("_Watched", (_PlainConnection,), {"watch": watch})
    secure = type("_WatchedTls", (_TlsConnection,), {"watch": watch})
    timeout = urllib3.Timeout(connect=limits.idle_seconds, read=limits.idle_seconds)
    common: dict[str, Any] = {"timeout": timeout, "retries": False, "maxsize": 1}
    host = parts.hostname or ""
    if parts.scheme == "https":
        pool: urllib3.HTTPConnectionPool = urllib3.HTTPSConnectionPool(
            host, parts.port, ssl_context=trust, **common
        )
        pool.ConnectionCls = secure
    else:
        pool = urllib3.HTTPConnectionPool(host, parts.port, **common)
        pool.ConnectionCls = plain
    return pool


def retry_after(value: str | None, now: float) -> float:
    """Seconds that ``Retry-After`` asks for, from a number or a date; 0 without one."""
    if not value:
        return 0.0
    value = value.strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        return min(float(value), _MAX_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(0.0, moment - now), _MAX_RETRY_AFTER)


def read_key(feed: FeedDefinition) -> str | None:
    """The feed's key, where it wants one.

    Raises:
        RefusedDownloadError: it wants one and there is none to read.
    """
    if feed.key is None:
        return None
    if feed.key_file is None:
        raise refuse(Trouble.KEY, f"its owner wants a key: set intel.feeds.{feed.name}.key_file")
    try:
        with feed.key_file.open(encoding="ascii") as file:
            key = file.read(_MAX_KEY + 1).strip()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not plain text"
        raise refuse(Trouble.KEY, f"{feed.key_file}: its key cannot be read: {why}") from error
    if not key or len(key) > _MAX_KEY or not key.isprintable() or " " in key:
        raise refuse(Trouble.KEY, f"{feed.key_file}: this is not a key")
    return key


def _headers(feed: FeedDefinition, key: str | None, validators: Validators) -> dict[str, str]:
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "gzip", "Accept": "*/*"}
    if key is not None and feed.key is not None and feed.key.place is KeyPlace.HEADER:
        headers[feed.key.name] = key
    if validators.etag:
        headers["If-None-Match"] = validators.etag
    if validators.last_modified:
        headers["If-Modified-Since"] = validators.last_modified
    return headers


def _with_key(url: str, feed: FeedDefinition, key: str | None) -> str:
    if key is None or feed.key is None or feed.key.place is not KeyPlace.QUERY:
        return url
    parts = urlsplit(url)
    query = [*parse_qsl(parts.query, keep_blank_values=True), (feed.key.name, key)]
    return parts._replace(query=urlencode(query)).geturl()


def _body(response: BaseHTTPResponse, limits: DownloadLimits, progress: Progress) -> bytes:
    pieces: list[bytes] = []
    taken = 0
    length = response.headers.get("Content-Length", "")
    total = int(length) if length.isascii() and length.isdigit() and len(length) < 16 else None
    if total is not None and total > limits.wire_bytes:
        raise refuse(Trouble.TOO_LARGE, f"it is larger than {limits.wire_bytes} bytes")
    while piece := response.read1(64 * 1024, decode_content=False):
        taken += len(piece)
        if taken > limits.wire_bytes:
            raise refuse(Trouble.TOO_LARGE, f"it is larger than {limits.wire_bytes} bytes")
        pieces.append(piece)
        progress(taken, total)
    content = b"".join(pieces)
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding in ("gzip", "x-gzip"):
        content = gunzip(content, limits.bytes)
    elif encoding not in ("identity", ""):
        raise refuse(Trouble.DAMAGED, "it comes in an encoding that was not asked for")
    return unpack(content, limits.bytes)


@contextmanager
def _bounded(watch: _Watch, seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, watch.end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if watch.held is not None:
            watch.held.close()


def fetch(
    feed: FeedDefinition,
    limits: DownloadLimits,
    trust: ssl.SSLContext,
    *,
    validators: Validators | None = None,
    progress: Progress = _no_progress,
) -> Download:
    """Ask a feed for its newest version.

    Args:
        feed: where it is and what key it wants.
        limits: sizes and times that are kept.
        trust: verifies the far end.
        validators: what the server called the version that we have.
        progress: told bytes taken and, where the server says it, bytes in all.

    Raises:
        RefusedDownloadError: anything but a whole answer; says what and when to come back.
    """
    key = read_key(feed)
    deadline = time.monotonic() + limits.seconds
    url = _with_key(feed.url, feed, key)
    asked = validators or Validators()
    home = origin_of(check_url(url, None))
    for _ in range(limits.redirects + 1):
        parts = check_url(url, home)
        at_home = origin_of(parts) == home
        # An address that was set by the operator may be private where they say so; one that a
        # server sends us to may not.
        watch = _Watch(private_allowed=at_home and (feed.internal or is_loopback(feed.url)))
        headers = _headers(feed, key if at_home else None, asked)
        with _bounded(watch, max(0.01, deadline - time.monotonic())):
            try:
                answer = _ask(parts, headers, limits, progress, watch=watch, trust=trust)
            except RefusedDownloadError:
                if not watch.expired:
                    raise
        if watch.expired:
            # A socket that the timer ended looks like the end of an answer without a length.
            raise refuse(Trouble.TOO_SLOW, f"it took more than {limits.seconds:g} s")
        if isinstance(answer, Download):
            return answer
        url = joined(url, answer)
    raise refuse(Trouble.REDIRECT, f"it leads through more than {limits.redirects} redirects")


def _ask(
    parts: SplitResult,
    headers: dict[str, str],
    limits: DownloadLimits,
    progress: Progress,
    *,
    watch: _Watch,
    trust: ssl.SSLContext,
) -> Download | str:
    """One request: an answer, or the address it redirects to."""
    target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
    try:
        with _pool(parts, watch, limits, trust) as pool:
            response = pool.urlopen(
                "GET",
                target,
                headers=headers,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            try:
                return _answer(response, limits, progress)
            finally:
                response.close()
    except (errors.HTTPError, HTTPException, OSError, ValueError) as error:
        raise _explained(error, limits) from error


_SAID: Final = (
    (errors.LocationValueError, Trouble.REDIRECT, "it leads to what is not a host's name"),
    (errors.NameResolutionError, Trouble.UNREACHABLE, "its name cannot be resolved"),
    (errors.NewConnectionError, Trouble.UNREACHABLE, "nobody answers there"),
    (errors.TimeoutError, Trouble.TOO_SLOW, "nothing came for {idle:g} s"),
    (errors.IncompleteRead, Trouble.DAMAGED, "its answer ends in the middle or is not HTTP"),
    (errors.ProtocolError, Trouble.DAMAGED, "its answer ends in the middle or is not HTTP"),
    (errors.SSLError, Trouble.UNREACHABLE, "its certificate is not trusted: {error}"),
)
"""What is said of an error, by the first kind that it is of."""


def _explained(error: Exception, limits: DownloadLimits) -> RefusedDownloadError:
    for kind, trouble, words in _SAID:
        if isinstance(error, kind):
            return refuse(trouble, words.format(idle=limits.idle_seconds, error=error))
    # urllib3's own texts may hold the URL, and the URL a key: only the kind is told.
    return refuse(Trouble.UNREACHABLE, f"it cannot be reached ({type(error).__name__})")


def _answer(
    response: BaseHTTPResponse,
    limits: DownloadLimits,
    progress: Progress,
) -> Download | str:
    status = response.status
    validators = Validators(
        response.headers.get("ETag", "")[:512], response.headers.get("Last-Modified", "")[:64]
    )
    if status == 304:
        return Download(None, validators)
    if status in (301, 302, 303, 307, 308):
        location = response.headers.get("Location")
        if not location:
            raise refuse(Trouble.REDIRECT, "it redirects without saying where to")
        return location
    if status in (429, 503):
        wait = retry_after(response.headers.get("Retry-After"), time.time())
        raise refuse(Trouble.LATER, f"its server asks to come back later ({status})", wait)
    if status in (401, 403):
        raise refuse(Trouble.KEY, f"its server does not let us in ({status})")
    if status != 200:
        raise refuse(Trouble.STATUS, f"its server answers {status}")
    return Download(_body(response, limits, progress), validators)
