"""Drills: harmless real acts that must make a rule fire, and everyday acts that must not.

A drill file says what is done; :mod:`~sib_protocol.drills.sandbox` does it in a throw-away root
in which nothing of the host can be changed; :mod:`~sib_protocol.drills.engine` is the Falco that
watches; :mod:`~sib_protocol.drills.verdicts` judges. Both sides use them: an enrolled host drills
its own Falco, the server tests rules before they reach any host.
"""
