"""The one TLS port: connections, their limits, and who is at the other end."""
