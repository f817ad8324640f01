"""`sortline torture`: kills, cuts, floods and forges while images are sorted, and checks the whole history.

Imported by `sortline.py` alone. What it starts are real workers, producers and servers, in processes of their own.
"""
