"""The server's state: hosts, certificates, tokens and health, in SQLite or PostgreSQL."""
