"""Export: a trained model as a SavedModel and LiteRT files, and how far these answer alike."""
