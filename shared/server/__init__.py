"""The Redis server: connections to it, its errors in plain words, and one that is embedded."""
