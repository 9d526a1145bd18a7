from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import pytest


@pytest.fixture
def _no_sync() -> Iterator[None]:
    """Crashes are made by changing files, never by cutting the power: syncing is only slow here."""
    with mock.patch("os.fdatasync"), mock.patch("os.fsync"):
        yield
