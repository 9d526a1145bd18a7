"""Where a feed may be asked: which URLs, which addresses, and how a URL is shown. Pure."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import urljoin, urlsplit

from sib_server.detection.indicators.admission import Trouble
from sib_server.detection.indicators.exclusions import Exclusions
from sib_server.detection.indicators.kinds import Kind, Observable
from sib_server.detection.indicators.unpack import refuse

if TYPE_CHECKING:
    from urllib.parse import SplitResult

_NOBODY: Final = Exclusions()

Origin: TypeAlias = tuple[str, "str | None", "int | None"]
"""Scheme, host and port."""


def shown(url: str) -> str:
    """A URL for people and logs: without user, password and query, which may hold a key."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path}"


def is_loopback(url: str) -> bool:
    """Whether a URL names this machine by its loopback address or as ``localhost``."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_public(address: str) -> bool:
    """Whether an IP address, maybe with a zone, is one of the internet."""
    try:
        parsed = ipaddress.ip_address(address.split("%", 1)[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return _NOBODY.why(Observable(Kind.ADDRESS, str(parsed))) is None


def origin_of(parts: SplitResult) -> Origin:
    """Whom a URL names: by scheme, host and port."""
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    return parts.scheme, parts.hostname, port


def check_url(url: str, home: Origin | None) -> SplitResult:
    """The parts of an address that may be asked: https, or http on loopback and at home.

    Args:
        url: the address.
        home: the feed's own; ``None`` where this is it.

    Raises:
        RefusedDownloadError: it may not.
    """
    try:
        parts = urlsplit(url)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError as error:
        raise refuse(Trouble.REDIRECT, "its address is not a URL") from error
    if not parts.hostname or not port_is_fine or parts.username is not None:
        raise refuse(Trouble.REDIRECT, f"{shown(url)}: not an address that can be asked")
    at_home = home is None or origin_of(parts) == home
    secure = parts.scheme == "https" or (parts.scheme == "http" and at_home and is_loopback(url))
    if not secure:
        raise refuse(Trouble.REDIRECT, f"{shown(url)}: only https is followed")
    return parts


def joined(url: str, location: str) -> str:
    """Where a redirect leads.

    Raises:
        RefusedDownloadError: to nothing that is a URL.
    """
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise refuse(Trouble.REDIRECT, "it redirects to what is not a URL") from error
