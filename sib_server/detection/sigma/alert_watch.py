"""Brings the alerts of imported rules from Loki's ruler into the journal, as events.

The server asks, in place of being told: nothing has to listen, and a Loki elsewhere is asked with
the credentials that it is given events with. An alert fires for as long as its window holds a line
that the rule finds, five minutes at the least, so none is missed between two looks.

An event is written at least once: what was reported is remembered after it is in the journal.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec
from urllib3.exceptions import HTTPError

from sib_protocol.errors import UNDECODABLE, FileAccessError, SibError
from sib_protocol.files import write_atomic
from sib_server.detection.sigma.alerts import (
    MOST_BYTES,
    PATH,
    FiringAlert,
    alert_event,
    choose_new,
    parse_alerts,
)
from sib_server.events.incoming import ServerRecord
from sib_server.fleet.hosts import HostNotFoundError
from sib_server.operations.stores import fetch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sib_protocol.ids import HostId, HostName
    from sib_server.events.writer import JournalWriter
    from sib_server.fleet.hosts import HostRecord
    from sib_server.settings import ServerSettings
    from sib_server.stack.access import StoreAccess

_log: Final = logging.getLogger(__name__)
FILE_NAME: Final = "reported.json"
_MODE: Final = 0o640


class RulerError(SibError):
    """Loki's ruler does not say which alerts fire.

    Attributes:
        url: what was asked.
        status: of the answer.
    """

    def __init__(self, url: str, status: int) -> None:
        super().__init__(
            f"{url} answers with status {status}",
            "imported Sigma rules over logs make no events until it does; a Loki of your own "
            "needs its ruler, with enable_api",
        )
        self.url = url
        self.status = status


@dataclass(frozen=True, slots=True)
class Ruler:
    """Where a Loki is asked.

    Attributes:
        url: Loki's, without a path.
        access: trust and credentials.
        tenant: or ``None``.
    """

    url: str
    access: StoreAccess
    tenant: str | None

    def ask(self, path: str) -> bytes:
        """One answer of its API.

        Raises:
            HTTPError, OSError: there is none.
            RulerError: another one than the ruler's.
            StoreAccessError, FileAccessError: the access cannot be used.
        """
        url = self.url.rstrip("/") + path
        status, content = fetch(url, self.access, tenant=self.tenant, most=MOST_BYTES)
        if status != 200:
            raise RulerError(url, status)
        return content


def find_ruler(settings: ServerSettings) -> Ruler | None:
    """The ruler of the Loki that hosts' logs go to, else of the one that events go to. Pure."""
    loki, push = settings.sinks.loki, settings.push
    if push.loki_url is not None:
        return Ruler(push.loki_url, push.loki_access, push.loki_tenant)
    if loki.enabled:
        return Ruler(loki.url, loki.access, loki.tenant)
    return None


class AlertWatch:
    """One server's look at the ruler, for as long as it runs.

    Args:
        ruler: whom to ask.
        writer: of the journal.
        own: whose the alert of a rule over several hosts is, as one of a host that is gone.
        find_host: the fleet's host of a name; raises HostNotFoundError.
        directory: where it is remembered what was reported.
        seconds: between two looks.
    """

    def __init__(
        self,
        ruler: Ruler,
        writer: JournalWriter,
        own: tuple[HostId, HostName],
        find_host: Callable[[str], HostRecord],
        *,
        directory: Path,
        seconds: float,
    ) -> None:
        self._ruler = ruler
        self._writer = writer
        self._own = own
        self._find_host = find_host
        self._file = directory / FILE_NAME
        self._seconds = seconds
        self._trouble = ""

    async def run(self) -> None:
        """Look again and again; what goes wrong is logged once, and tried again."""
        while True:
            trouble = ""
            try:
                await self.look()
            except (HTTPError, OSError, SibError) as error:
                trouble = str(error)
            if trouble and trouble != self._trouble:
                _log.warning("alerts of imported rules are not known: %s", trouble)
            self._trouble = trouble
            await asyncio.sleep(self._seconds)

    async def look(self) -> int:
        """Make an event of each alert that is new.

        Returns:
            How many there were.

        Raises:
            HTTPError, OSError, SibError: not now; what is not remembered as reported comes again.
        """
        alerts = parse_alerts(await asyncio.to_thread(self._ruler.ask, PATH))
        known = await asyncio.to_thread(_load, self._file)
        new = choose_new(alerts, known)
        # Together, so that they are durable by one commit.
        await asyncio.gather(*map(self._record, new))
        firing = {alert.key for alert in alerts}
        reported = (known & firing) | {alert.key for alert in new}
        if reported != known:
            await asyncio.to_thread(_save, self._file, reported)
        return len(new)

    async def _record(self, alert: FiringAlert) -> None:
        host_id, name = await asyncio.to_thread(self._about, alert.host)
        await self._writer.submit(ServerRecord(alert_event(alert), host_id, name))

    def _about(self, name: HostName | None) -> tuple[HostId, HostName]:
        if name is None:
            return self._own
        try:
            host = self._find_host(name)
        except HostNotFoundError:
            return self._own
        return host.id, host.name


def _load(path: Path) -> frozenset[str]:
    try:
        return frozenset(msgspec.json.decode(path.read_bytes(), type=list[str]))
    except FileNotFoundError:
        return frozenset()
    except UNDECODABLE as error:
        # To report what fires once more is better than to report nothing ever again.
        _log.warning("%s cannot be read, alerts that fire are reported again: %s", path, error)
        return frozenset()
    except OSError as error:
        raise FileAccessError(path, error.strerror or str(error)) from error


def _save(path: Path, keys: frozenset[str]) -> None:
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        write_atomic(path, msgspec.json.encode(sorted(keys)), _MODE)
    except OSError as error:
        raise FileAccessError(path, error.strerror or str(error)) from error
