"""How hosts stand with bundles."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns to what hosts report."""
    for name, kind in (
        ("bundle_version", sa.BigInteger()),
        ("bundle_ended", sa.BigInteger()),
        ("bundle_outcome", sa.String(16)),
        ("bundle_reason", sa.String(200)),
    ):
        op.add_column("health", sa.Column(name, kind))
