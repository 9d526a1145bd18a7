"""The agent's on-disk queue of event lines, and the follower of Falco's events file before it.

``records``, ``lines`` and ``rotation`` hold the decisions and know no file; ``segments``,
``state``, ``reader`` and ``source`` are the edges to the disk; ``spool`` and ``intake`` join them.
"""
