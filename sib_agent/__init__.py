"""The host's daemon: it takes over Falco's events, keeps them in a spool and brings them home."""
