"""What a worker shows of itself: metrics, and whether every thread still works."""
