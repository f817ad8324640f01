"""`sortline demo`: runs the whole system on this machine, as real processes: server, worker, cameras.

It starts the other parts as commands and reads their results like any user; it imports none of them.
"""
