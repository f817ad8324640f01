"""The steps of the pipeline, in order: claim, admit, decode, batch, infer, finish.

Between infer and finish each model decides by its own policy: `worker.models.decider`.
"""
