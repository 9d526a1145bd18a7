"""Hosts, their certificates and health, and the tokens that let them in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "hosts",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(253), nullable=False),
        sa.Column("name_key", sa.String(253), nullable=False),
        sa.Column("tags", sa.JSON, nullable=False),
        sa.Column("token_id", sa.String(16)),
        sa.Column("enrolled_ns", sa.BigInteger, nullable=False),
        sa.Column("removed_ns", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_hosts"),
    )
    op.create_index(
        "uq_hosts_enrolled_name",
        "hosts",
        ["name_key"],
        unique=True,
        sqlite_where=sa.text("removed_ns IS NULL"),
        postgresql_where=sa.text("removed_ns IS NULL"),
    )
    op.create_table(
        "certificates",
        sa.Column("serial", sa.String(40), nullable=False),
        sa.Column("host_id", sa.String(36), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("key_digest", sa.String(64), nullable=False),
        sa.Column("request_digest", sa.String(64), nullable=False),
        sa.Column("issued_ns", sa.BigInteger, nullable=False),
        sa.Column("not_after", sa.BigInteger, nullable=False),
        sa.Column("first_used_ns", sa.BigInteger),
        sa.Column("revoked_ns", sa.BigInteger),
        sa.Column("pem", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("serial", name="pk_certificates"),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name="fk_certificates_host_id"),
        sa.UniqueConstraint("fingerprint", name="uq_certificates_fingerprint"),
    )
    op.create_index("ix_certificates_key_digest", "certificates", ["key_digest"])
    op.create_index("ix_certificates_request_digest", "certificates", ["request_digest"])
    op.create_index("ix_certificates_host_id_issued_ns", "certificates", ["host_id", "issued_ns"])
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("secret_digest", sa.String(64), nullable=False),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        sa.Column("expires_ns", sa.BigInteger, nullable=False),
        sa.Column("uses", sa.Integer, nullable=False),
        sa.Column("uses_left", sa.Integer, nullable=False),
        sa.Column("tags", sa.JSON, nullable=False),
        sa.Column("revoked_ns", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.CheckConstraint("uses_left >= 0", name=op.f("ck_tokens_uses_left")),
    )
    op.create_table(
        "health",
        sa.Column("host_id", sa.String(36), nullable=False),
        sa.Column("received_ns", sa.BigInteger),
        sa.Column("version", sa.String(64)),
        sa.Column("address", sa.String(64)),
        sa.Column("report", sa.Text),
        sa.PrimaryKeyConstraint("host_id", name="pk_health"),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name="fk_health_host_id"),
    )
