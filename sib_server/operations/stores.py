"""Whether the stores beside the server answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec
import urllib3
from urllib3.exceptions import HTTPError

if TYPE_CHECKING:
    from sib_server.settings import ServerSettings

_MAX_ANSWER: Final = 4096


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
    return [ask(name, url, seconds) for name, url in store_urls(settings).items()]


def ask(name: str, url: str, seconds: float) -> StoreState:
    """Ask one store."""
    pool = urllib3.PoolManager(timeout=seconds, retries=False)
    try:
        answer = pool.request("GET", url, preload_content=False, redirect=False)
        said = answer.read(_MAX_ANSWER).decode("utf-8", "replace").split("\n", 1)[0].strip()
    except (HTTPError, OSError) as error:
        return StoreState(name, url, False, str(error)[:200])
    finally:
        pool.clear()
    return StoreState(name, url, answer.status == 200, f"{answer.status} {said}"[:200])
