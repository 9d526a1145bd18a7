"""Sigma rules: read, converted to Falco or LogQL with their meaning kept, and stored."""
