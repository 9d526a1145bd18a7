"""``sib-server try``: a whole SIB on loopback, with a real agent, in a directory of its own."""
