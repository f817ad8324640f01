"""What the benchmarks measure with: rates, percentiles, traffic from the real producer, and the machine itself."""
