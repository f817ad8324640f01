"""`sortline bench`: what the queue costs, measured on the machine it runs on.

Each comparison is interleaved in one run, every contender in a process of its own; only ratios mean much
on a shared machine. The producer is the real one, as a process (`sortline camera`).
"""
