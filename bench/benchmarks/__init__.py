"""The benchmarks, one per module."""
