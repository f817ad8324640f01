"""The one door to TensorFlow for training: which Keras, and none of its start-up chatter.

Imported by the training side only. Nothing heavy happens before a function here is called.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

# tensorflow_hub.KerasLayer is a layer of Keras 2 (tf-keras); Keras 3 refuses it.
_ENVIRONMENT = {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "GRPC_VERBOSITY": "ERROR"}


def import_tensorflow() -> Any:
    """TensorFlow, quiet, with Keras 2 as its Keras. The first call takes seconds."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with quiet_native():
        import tensorflow as tf
    tf.get_logger().setLevel(logging.ERROR)
    return tf


def import_keras() -> Any:
    """tf_keras, after TensorFlow was set up for it."""
    import_tensorflow()
    import tf_keras

    return tf_keras


def import_hub() -> Any:
    """tensorflow_hub, after TensorFlow was set up for it."""
    import_tensorflow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports pkg_resources, which warns of its own end
        import tensorflow_hub
    return tensorflow_hub


@contextlib.contextmanager
def quiet_native() -> Iterator[None]:
    """Keep what native code writes to the descriptors 1 and 2 away from the user, unless the block fails.

    TensorFlow's libraries log before any setting of theirs is read, and its converter prints to standard
    output, where a command's JSON goes. Only the descriptors help against both.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile() as chatter:
        os.dup2(chatter.fileno(), 1)
        os.dup2(chatter.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, original in zip((1, 2), kept, strict=True):
                os.dup2(original, descriptor)
                os.close(original)
            if failed:
                chatter.seek(0)
                sys.stderr.write(chatter.read().decode(errors="replace"))
