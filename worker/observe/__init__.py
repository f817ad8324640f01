"""What a worker reports about itself: metrics, and whether all of its threads work."""
