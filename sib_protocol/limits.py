"""The sizes and times both sides hold each other to."""

from __future__ import annotations

from typing import Final

MAX_LINE_BYTES: Final = 8 * 1024 * 1024
"""The longest event line that is carried whole; the agent cuts a longer one and counts it."""

MAX_BATCH_BYTES: Final = 16 * 1024 * 1024
"""The most that a batch may hold after decompression, newlines included."""

MAX_BATCH_LINES: Final = 65_536
"""The most lines in a batch: an empty one costs a byte on the wire but a row in the journal."""

MAX_BATCH_BODY_BYTES: Final = MAX_BATCH_BYTES + 64 * 1024
"""The most that a batch may be on the wire: incompressible lines grow a little under gzip."""

MAX_MESSAGE_BYTES: Final = 256 * 1024
"""The most that any JSON message (enrollment, renewal, health) may be."""

MAX_CERTIFICATE_LIFE_DAYS: Final = 7
"""How long a certificate lives."""
