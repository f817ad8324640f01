"""Backbones, datasets, training, export, bundles, versions and reports.

Workers import only `bundle`, `engines` and `registry`, which need no TensorFlow; the other packages are for training.
"""
