"""The Redis server: connections to it, the translation of its errors, its memory options, and an embedded server."""
