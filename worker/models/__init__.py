"""The models that a worker serves: loading, routing, following the registry."""
