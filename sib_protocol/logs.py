"""Logging to the systemd journal: one line a record, fields as key=value, no secret in it.

The standard library's loggers are used everywhere; this only sets the root logger of a daemon's
process up. Under systemd a line begins with ``<N>``, from which the journal takes its priority.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_SYSLOG: Final = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}
# What could let somebody in, whoever put it into a message: tokens, private keys, bearer values.
_SECRETS: Final = re.compile(
    r"sib1\.[A-Za-z0-9_-]+"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)"
    r"|(?i:(?<=bearer )\S+)"
    r"|(?i:(?<=authorization: )[^\r\n]+)",
    re.DOTALL,
)


def redact(text: str) -> str:
    """A text without the secrets that can be told by their form."""
    return _SECRETS.sub("[redacted]", text)


def one_line(text: str) -> str:
    """A text that can neither begin a line of its own nor steer a terminal."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text
    )


def _quote(value: object) -> str:
    text = str(value)
    if text and not any(sign in text for sign in ' "=\n'):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class LineFormatter(logging.Formatter):
    """One record as one line.

    Args:
        priorities: put ``<N>`` first, for the systemd journal.
    """

    def __init__(self, *, priorities: bool) -> None:
        super().__init__()
        self._priorities = priorities

    def format(self, record: logging.LogRecord) -> str:
        """``<N>level logger: message key=value … error="…"``."""
        fields: Mapping[str, object] = getattr(record, "fields", {})
        parts = [f"{record.name}: {record.getMessage()}"]
        parts += [f"{key}={_quote(value)}" for key, value in fields.items()]
        if record.exc_info:
            parts.append("traceback=" + _quote(self.formatException(record.exc_info)))
        line = one_line(redact(" ".join(parts)))
        level = record.levelname.lower()
        if self._priorities:
            return f"<{_SYSLOG.get(record.levelno, 6)}>{line}"
        return f"{self.formatTime(record, '%H:%M:%S')} {level} {line}"


def set_up_logging(level: str) -> None:
    """Send this process's records to stderr, and so to the systemd journal.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(priorities="JOURNAL_STREAM" in os.environ))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("uvicorn", "aiohttp", "asyncio", "alembic"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
    # It warns with a traceback of each half answer, whose reader says the same in a sentence.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
