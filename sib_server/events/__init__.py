"""The way of an event through the server: ingest, journal, sinks, search."""
