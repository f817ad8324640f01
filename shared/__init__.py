"""What every part of Sortline speaks: settings, errors, schemas, Redis keys, images.

Imports nothing of ours. May be imported by `model_store`, `producer`, `worker` and the command line.
"""
