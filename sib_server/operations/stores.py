"""Whether the stores beside the server answer."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec
import urllib3
from urllib3.exceptions import HTTPError

from sib_protocol.errors import SibError
from sib_server.stack.access import StoreAccess, request_headers, tls

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sib_server.settings import ServerSettings

_MAX_ANSWER: Final = 4096
_MAX_PAGE: Final = 16 * 1024 * 1024


class StoreState(msgspec.Struct, frozen=True):
    """How a store answers.

    Attributes:
        name: loki, falcosidekick or prometheus.
        url: what was asked.
        ready: whether it says that it is well.
        answer: its status and the beginning of what it said, or why there is none.
    """

    name: str
    url: str
    ready: bool
    answer: str


def store_access(settings: ServerSettings, name: str) -> StoreAccess:
    """How a store in use is spoken to. Pure."""
    sinks, push = settings.sinks, settings.push
    if name == "falcosidekick":
        return sinks.falcosidekick.access
    if name == "prometheus":
        return push.metrics_access
    return sinks.loki.access if sinks.loki.enabled else push.loki_access


def store_urls(settings: ServerSettings) -> dict[str, str]:
    """Where each store that is in use says whether it is well. Pure."""
    sinks, push = settings.sinks, settings.push
    urls = {}
    if sinks.loki.enabled:
        urls["loki"] = f"{sinks.loki.url.rstrip('/')}/ready"
    elif push.loki_url:
        urls["loki"] = f"{push.loki_url.rstrip('/')}/ready"
    if sinks.falcosidekick.enabled:
        urls["falcosidekick"] = f"{sinks.falcosidekick.url.rstrip('/')}/ping"
    if push.metrics_url:
        parts = urlsplit(push.metrics_url)
        urls["prometheus"] = f"{parts.scheme}://{parts.netloc}/-/ready"
    return urls


def store_states(settings: ServerSettings, seconds: float = 2.0) -> list[StoreState]:
    """Ask each store that is in use."""
    return [
        ask(name, url, seconds, store_access(settings, name))
        for name, url in store_urls(settings).items()
    ]


def ask(
    name: str,
    url: str,
    seconds: float,
    access: StoreAccess = StoreAccess(),  # noqa: B008  (frozen)
) -> StoreState:
    """Ask one store."""
    try:
        status, content = fetch(url, access, seconds=seconds, most=_MAX_ANSWER)
    except (HTTPError, OSError, SibError) as error:
        return StoreState(name, url, False, str(error)[:200])
    said = content.decode("utf-8", "replace").split("\n", 1)[0].strip()
    return StoreState(name, url, status == 200, f"{status} {said}"[:200])


def fetch(
    url: str,
    access: StoreAccess,
    *,
    tenant: str | None = None,
    fields: Mapping[str, str] | None = None,
    seconds: float = 5.0,
    most: int = _MAX_PAGE,
) -> tuple[int, bytes]:
    """``GET`` from a store, as the server itself would speak to it.

    Args:
        url: whole.
        access: trust and credentials.
        tenant: Loki's, if it has any.
        fields: the query.
        seconds: how long it may take.
        most: bytes of the answer that are read.

    Raises:
        HTTPError, OSError: no answer.
        StoreAccessError, FileAccessError: the access cannot be used.
    """
    trust = tls(access)
    pool = urllib3.PoolManager(
        timeout=seconds,
        retries=False,
        headers=request_headers(access, tenant),
        ssl_context=trust if isinstance(trust, ssl.SSLContext) else None,
    )
    try:
        answer = pool.request("GET", url, fields=fields, preload_content=False, redirect=False)
        return answer.status, answer.read(most)
    finally:
        pool.clear()
