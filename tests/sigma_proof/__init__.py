"""Proof that converted Sigma rules mean what the rules say, on the real engines."""
