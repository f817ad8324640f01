"""`sortline torture`: kills, cuts and floods a running plant, and checks its whole history.

Only the command line imports it.
"""
