"""The tables of the state database.

The migrations make the same tables; a test compares the two on both engines. Times are whole
nanoseconds (``*_ns``) or seconds since 1970 UTC, so that both engines keep them exactly.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

HEAD: Final = "0002"
"""The newest migration, so that an up-to-date database is recognised without loading Alembic."""

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

hosts = sa.Table(
    "hosts",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("name", sa.String(253), nullable=False),
    # Lower case: "Web-1" beside "web-1" would fool people, so the two are one name.
    sa.Column("name_key", sa.String(253), nullable=False),
    sa.Column("tags", sa.JSON, nullable=False),
    sa.Column("token_id", sa.String(16)),
    sa.Column("enrolled_ns", sa.BigInteger, nullable=False),
    sa.Column("removed_ns", sa.BigInteger),
)
sa.Index(
    "uq_hosts_enrolled_name",
    hosts.c.name_key,
    unique=True,
    sqlite_where=hosts.c.removed_ns.is_(None),
    postgresql_where=hosts.c.removed_ns.is_(None),
)

certificates = sa.Table(
    "certificates",
    metadata,
    sa.Column("serial", sa.String(40), primary_key=True),
    sa.Column("host_id", sa.ForeignKey("hosts.id"), nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False, unique=True),
    sa.Column("key_digest", sa.String(64), nullable=False, index=True),
    sa.Column("request_digest", sa.String(64), nullable=False, index=True),
    sa.Column("issued_ns", sa.BigInteger, nullable=False),
    sa.Column("not_after", sa.BigInteger, nullable=False),
    sa.Column("first_used_ns", sa.BigInteger),
    sa.Column("revoked_ns", sa.BigInteger),
    sa.Column("pem", sa.Text, nullable=False),
)
sa.Index("ix_certificates_host_id_issued_ns", certificates.c.host_id, certificates.c.issued_ns)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("secret_digest", sa.String(64), nullable=False),
    sa.Column("created_ns", sa.BigInteger, nullable=False),
    sa.Column("expires_ns", sa.BigInteger, nullable=False),
    sa.Column("uses", sa.Integer, nullable=False),
    sa.Column("uses_left", sa.Integer, nullable=False),
    sa.Column("tags", sa.JSON, nullable=False),
    sa.Column("revoked_ns", sa.BigInteger),
    sa.CheckConstraint("uses_left >= 0", name="uses_left"),
)

health = sa.Table(
    "health",
    metadata,
    sa.Column("host_id", sa.ForeignKey("hosts.id"), primary_key=True),
    sa.Column("received_ns", sa.BigInteger),
    sa.Column("version", sa.String(64)),
    sa.Column("address", sa.String(64)),
    sa.Column("report", sa.Text),
    # Of the report, so that a rollout is judged without reading 5,000 of them.
    sa.Column("bundle_version", sa.BigInteger),
    sa.Column("bundle_ended", sa.BigInteger),
    sa.Column("bundle_outcome", sa.String(16)),
    sa.Column("bundle_reason", sa.String(200)),
)
