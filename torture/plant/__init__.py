"""The plant under torture: workers, producers, and who sends what."""
