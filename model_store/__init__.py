"""Backbones, datasets, training, export, bundles, versions and reports.

The reading side (`manifest`, `bundle`, `store`, `policy`, `engines`) needs no TensorFlow and is what
workers import; all else is for training.
"""
