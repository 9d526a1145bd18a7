"""Readers of what feeds publish. Pure: bytes in, records out, never an exception.

Every reader has the shape ``read(content, shape, limits) -> Reading``. What cannot be read is
counted and a few samples are kept; whether that is still a feed is decided by ``admission``.
"""
