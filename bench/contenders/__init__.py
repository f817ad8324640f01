"""What the benchmarks compare: each is run to its end in processes of its own."""
