"""The Redis server: connections to it, the translation of its errors, and an embedded server."""
