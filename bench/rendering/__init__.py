"""Renders bottle frames for datasets whose judge frames show other belts, lights and bottles than the learn frames.

A model that does well on a random split of one set of frames may only know that set's belt. The pairs of
`domains.PAIRS` measure what is left of it elsewhere. `datasets.render_pairs` writes them.
"""
