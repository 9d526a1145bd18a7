"""Falco rules as data: read with their lines, put together, checked, tuned and written for hosts.

``documents`` and ``items`` read rules files; ``collect`` puts them together as Falco would;
``conditions``, ``parsing`` and ``writing`` know the language of conditions; ``lints`` judge;
``switches`` and ``tunings`` are what an administrator decided; ``compile`` makes of all that the
files of a bundle. Only ``sources`` and the two stores touch the disk.
"""
