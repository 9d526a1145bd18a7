"""Alembic's scripts; run by :meth:`sib_server.state.database.StateDatabase.migrate`."""
