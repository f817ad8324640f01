"""Helpers for the rest of the model store: scratch folders, progress display, quiet native libraries, TensorFlow."""
