"""Engines for benchmarks only: one that answers at once, one that takes the time of a GPU."""
