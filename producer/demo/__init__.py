"""`sortline demo`: the whole system on this machine, from real processes: server, worker, cameras.

It starts the other parts as commands and reads their results as any user would; it imports none of them.
"""
