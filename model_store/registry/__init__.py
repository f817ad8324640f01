"""The registry: a model's published versions, which of them serves, and which is tried beside it."""
