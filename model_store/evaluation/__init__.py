"""Evaluation: a model's answers on labelled images, scored and compared."""
