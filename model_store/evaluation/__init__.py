"""Evaluation: a model's answers on labeled images, scored and compared."""
