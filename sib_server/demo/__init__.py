"""`sib-server demo`: events as real hosts would send them, marked, removable with one command.

They are made of the rules' own output templates and of what the rules' drills do, and go through
the real ingest, from demo hosts that really enroll.
"""
