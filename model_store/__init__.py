"""The model store: backbones, datasets, training, export, bundles, versions and reports.

Workers import only `bundle`, `engines` and `registry`, which run without TensorFlow. The other packages are for
training and evaluation.
"""
