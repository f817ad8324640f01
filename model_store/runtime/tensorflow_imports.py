"""Imports TensorFlow for everything but serving: with the right Keras, and without start-up messages.

The engines don't use it: `engines.tensorflow` has an import of its own. Importing this module imports nothing heavy;
calling one of its functions does.
"""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any

from model_store.runtime.native_output import quiet_native

# tensorflow_hub.KerasLayer is a layer of Keras 2 (tf-keras); Keras 3 refuses it.
_ENVIRONMENT = {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "GRPC_VERBOSITY": "ERROR"}


def import_tensorflow() -> Any:
    """Import TensorFlow without its messages, with Keras 2 as its Keras. The first call takes seconds."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with quiet_native():
        import tensorflow as tf
    tf.get_logger().setLevel(logging.ERROR)
    return tf


def import_keras() -> Any:
    """Import tf_keras, after configuring TensorFlow for it."""
    import_tensorflow()
    import tf_keras

    return tf_keras


def import_hub() -> Any:
    """Import tensorflow_hub, after configuring TensorFlow for it."""
    import_tensorflow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tensorflow_hub imports pkg_resources, which warns that it is deprecated
        import tensorflow_hub
    return tensorflow_hub
