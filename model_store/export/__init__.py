"""Export: a trained model as a SavedModel and LiteRT files, and how closely their outputs agree."""
