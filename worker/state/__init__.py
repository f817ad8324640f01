"""What the steps share: jobs in hand, pixels, budgets, estimates."""
