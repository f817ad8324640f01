"""State that the steps share, without a model: records of jobs, the in-flight set, pixels, budgets, estimates."""
