"""What a worker shows of itself: metrics, and whether all of its threads work."""
