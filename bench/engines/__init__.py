"""Engines for benchmarks only: one that answers at once, and two that take time but no processor."""

from __future__ import annotations

# What a benchmark of a running worker runs: the model's own engine, or the simulated one of a fixed rate.
REAL, SIMULATED = "real", "simulated"
KINDS = (REAL, SIMULATED)
