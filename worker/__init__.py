"""The worker: claim, decode, batch, infer, decide, finish, and the leases, metrics, canary and archive around them.

Read `pipeline.py` first. The packages are layers: parent < state < observe < rq, models < steps < canary, archive < the
modules beside this file. The worker imports `shared` and `bundle`, `engines`, `registry` of `model_store`, never
`producer`.
"""
