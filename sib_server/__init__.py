"""The server's side of SIB: certificate authority, fleet, events, detection and the console."""
