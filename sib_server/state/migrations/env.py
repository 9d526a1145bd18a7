"""Alembic's entry: it upgrades over the connection that it is given, inside its transaction.

There is no alembic.ini and no logging configuration here on purpose: the program that calls has its
own.
"""

from __future__ import annotations

from alembic import context

from sib_server.state.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
