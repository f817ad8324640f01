"""The registry: a model's published versions, which of them serves, and which one is tried as a canary."""
