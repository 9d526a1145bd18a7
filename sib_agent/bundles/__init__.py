"""Bundles on the host: fetched, proven, put in force, watched, and taken back."""
