"""Backup and restore of a server: what agents need to go on as if nothing had happened."""
