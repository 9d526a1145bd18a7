"""Bundles: signed, versioned sets of rules that hosts pull."""
