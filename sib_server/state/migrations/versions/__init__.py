"""One module a migration, named by its place in the order."""
