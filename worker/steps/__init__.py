"""The steps of the pipeline, in order: claim, admit, decode, batch, infer, decide, finish."""
