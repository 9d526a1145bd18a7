"""What both sides of SIB agree on: messages, batches, tokens, identities.

Imports neither ``sib_agent`` nor ``sib_server``; an import-linter contract keeps it so.
"""

__version__ = "0.1.0"
