"""Builds SIB's packages; no part of what is in them."""
