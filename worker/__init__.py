"""The worker: claim, decode, batch, infer, decide, finish, and the leases and metrics around them.

Read `pipeline.py` first. The packages are layers: parent < state < observe < rq, models < steps < canary < pipeline,
service, tasks. The worker imports `shared` and `bundle`, `engines`, `registry` of `model_store`, never `producer`.
"""
