"""Keeping a server well: units, doctor, backup, disk guard, removal."""
