"""The rules file of the present indicators, made once an hour and once a generation.

To choose 100,000 addresses takes seconds, and every command about rules would wait for it.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from sib_protocol import __version__
from sib_protocol.documents import MAX_BYTES
from sib_protocol.files import write_atomic
from sib_server.detection.indicators.index import Index
from sib_server.detection.indicators.rules import choose, rule_document

if TYPE_CHECKING:
    from collections.abc import Callable

    from sib_server.settings import ServerSettings

FILE_NAME: Final = "indicators.yaml"
_KEPT_S: Final = 3_600
"""Indicators expire without an update, and hosts should not be given them much longer."""


def indicator_rules(settings: ServerSettings, clock: Callable[[], float] = time.time) -> bytes:
    """The rules file; without an item where there are no indicators.

    Args:
        settings: of indicators, and of rules for the place where it is kept.
        clock: seconds since 1970.

    Raises:
        DamagedStoreError: the store is damaged.
    """
    index = Index.open(settings.intel.directory, clock)
    try:
        if index.generation == (0, 0):
            return b""
        shipping = settings.intel.shipping
        about = (
            __version__,
            index.generation,
            int(clock() // _KEPT_S),
            msgspec.json.encode(shipping),
        )
        head = f"# {hashlib.sha256(repr(about).encode()).hexdigest()}\n".encode()
        path = settings.detection.directory / FILE_NAME
        with suppress(OSError), path.open("rb") as file:
            if file.read(len(head)) == head:
                return file.read(MAX_BYTES + 1)
        shipment = choose(index.indicators(), shipping)
    finally:
        index.close()
    text = rule_document(shipment, inbound_networks=shipping.inbound_networks).encode()
    # Whoever may only read makes it each time.
    with suppress(OSError):
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        write_atomic(path, head + text)
    return text
