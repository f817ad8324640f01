"""The steps of the pipeline, in order: claim, admit, decode, batch, infer, decide, finish.

`decide` runs on the thread of the step that reaches a verdict, and asks the model's own `worker.models.decider`.
`decode_costly` and `suspects` take what could hold up or crash the others, `keep_leases` renews the leases, and
`quarantine` says why a job is given up. All share `flow` (the queues between them), `work` (the records of jobs that
have their model) and `observer` (for those who only look on).
"""
