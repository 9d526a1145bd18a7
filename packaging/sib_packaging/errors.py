"""What can go wrong while packages are built."""

from __future__ import annotations


class PackagingError(Exception):
    """One sentence for who builds."""
