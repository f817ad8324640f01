"""The worker: claim, decode, batch, infer, decide, finish, and the leases and metrics around them.

Read `pipeline.py` first. Imports `shared` and the reading side of `model_store`, never `producer`.
"""
