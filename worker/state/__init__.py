"""State that the steps share, without a model: records of jobs, queues, the in-flight set, pixels, budgets, estimates.

Also the totals of a canary, and when a worker may take suspects.
"""
