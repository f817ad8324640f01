"""The models that a worker serves: loading, routing, deciding by their policies, following the model store."""
