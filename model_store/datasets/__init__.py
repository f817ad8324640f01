"""Datasets: labeled images, read, checked, split and held in memory or on disk."""
