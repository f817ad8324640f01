"""Keeps some of the images with their results in a folder, for people to look at and for training."""
