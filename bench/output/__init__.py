"""What a run of the benchmarks prints and writes."""
