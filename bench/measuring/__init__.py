"""The tools of the benchmarks: rates, percentiles, traffic from the real producer, and a description of the machine."""
