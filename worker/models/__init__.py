"""The models that a worker serves: loading, routing, deciding by their policies, caching, following the model store."""
