"""Taking a demo's events out again: of the journal beside its writer, and of Loki by its API."""

from __future__ import annotations

import json
import sqlite3
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from typing import TYPE_CHECKING, Final

from sib_server.demo.scenes import HOST_PREFIX
from sib_server.events import schema
from sib_server.events.failures import JournalMissingError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sib_protocol.ids import HostId
    from sib_server.events.sinks.settings import LokiSinkSettings

_STEP: Final = 500
_DELETE: Final = (
    "DELETE FROM events WHERE seq IN (SELECT seq FROM events WHERE stream IN"
    " (SELECT ref FROM streams WHERE host_id = ?) LIMIT ?)"
)
_PAUSE_S: Final = 0.01
_LOKI_TIMEOUT_S: Final = 15.0
_LOKI_REACH_S: Final = 31 * 24 * 3600


def remove_events(journal: Path, hosts: Sequence[HostId]) -> int:
    """Delete all events of some hosts' streams from the journal, a few at a time.

    The writer may be at work: deleting rows that it never looks at again changes nothing that it
    knows. The streams themselves stay, so that no number is ever given twice.

    Raises:
        JournalMissingError: there is no journal.
        JournalUnavailableError: it cannot be written.
        JournalDamagedError: it cannot be read.
    """
    if not journal.is_file():
        raise JournalMissingError(journal)
    removed = 0
    try:
        connection = sqlite3.connect(journal, isolation_level=None, timeout=30)
        try:
            connection.execute("PRAGMA busy_timeout = 30000")
            connection.execute("PRAGMA secure_delete = ON")
            for host in hosts:
                while step := connection.execute(_DELETE, (uuid.UUID(host).bytes, _STEP)).rowcount:
                    removed += step
                    time.sleep(_PAUSE_S)
        finally:
            connection.close()
    except schema.SqliteFailure as error:
        raise schema.journal_error(journal, error) from error
    return removed


def remove_from_loki(settings: LokiSinkSettings, *, now: float) -> str | None:
    """Ask Loki to delete the demo hosts' streams.

    Args:
        settings: where Loki is.
        now: seconds since 1970 UTC.

    Returns:
        ``None`` where Loki took the request (it deletes within hours), else why not.
    """
    query = urllib.parse.urlencode(
        {
            "query": f'{{host=~"{HOST_PREFIX}.+"}}',
            "start": int(now - _LOKI_REACH_S),
            "end": int(now),
        }
    )
    address = f"{settings.url.rstrip('/')}/loki/api/v1/delete?{query}"
    if not address.startswith(("http://", "https://")):
        return f"{settings.url} is no address of a Loki"
    headers = {"X-Scope-OrgID": settings.tenant} if settings.tenant else {}
    request = urllib.request.Request(address, headers=headers, method="POST")  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_LOKI_TIMEOUT_S) as answer:  # noqa: S310
            return None if answer.status in (200, 204) else f"it answered {answer.status}"
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(300).decode(errors="replace").strip()
        return f"it answered {error.code}: {_short(said)}"
    except OSError as error:
        return str(getattr(error, "reason", error))


def _short(said: str) -> str:
    try:
        return str(json.loads(said).get("message", said))
    except (ValueError, AttributeError):
        return said.partition("\n")[0][:200]
