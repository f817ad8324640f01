"""Losses and accuracies computed from logits, for heads and for fine-tuning. Unknown targets (NaN) are ignored."""

from __future__ import annotations

from typing import Any

import numpy as np

from model_store.bundle.policy import Mode
from model_store.runtime.tensorflow_imports import import_tensorflow
from shared.arrays import Floats

# A rare class weighs at most this many times as much as a class that half of the images have.
_MAX_WEIGHT = 5.0


def class_weights(targets: Floats, mode: Mode) -> Floats:
    """The weight of each output's positive images, float32 [outputs], about 1 on average.

    It is the square root of the imbalance: enough that a rare defect is learned, and not so much that it is predicted
    everywhere. In `multi`, the imbalance is the number of known negatives divided by the number of known positives. In
    `single`, it is the mean number of images per class divided by the number of images of this class.
    """
    positives = np.nansum(targets, axis=0)
    known = (~np.isnan(targets)).sum(axis=0)
    others = known - positives if mode == "multi" else np.full(len(positives), positives.mean())
    weights = np.sqrt(others / np.maximum(positives, 1))
    return np.asarray(np.clip(weights, 1 / _MAX_WEIGHT, _MAX_WEIGHT), np.float32)


def loss(targets: Any, logits: Any, *, mode: Mode, smoothing: float, weights: Floats | None) -> Any:
    """Mean cross entropy of each image, float32 [N]; `targets` and `logits` are [N, outputs].

    `smoothing` moves the targets away from 0 and 1, as `label_smoothing` of Keras does.
    """
    tf = import_tensorflow()
    known = tf.logical_not(tf.math.is_nan(targets))
    stated = tf.where(known, targets, tf.zeros_like(targets))
    output_weights = tf.ones_like(logits[:1]) if weights is None else tf.constant(weights[None])
    if mode == "single":
        smooth = stated * (1 - smoothing) + smoothing / logits.shape[-1]
        return tf.nn.softmax_cross_entropy_with_logits(smooth, logits) * tf.reduce_sum(stated * output_weights, axis=1)
    smooth = stated * (1 - smoothing) + smoothing / 2
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(smooth, logits) * (1 + stated * (output_weights - 1))
    counted = tf.cast(known, tf.float32)
    return tf.reduce_sum(entropy * counted, axis=1) / tf.maximum(tf.reduce_sum(counted, axis=1), 1.0)


def accuracy(targets: Any, logits: Any, *, mode: Mode) -> Any:
    """Accuracy of each image, float32 [N].

    In `single` it is 1 if the most probable class is the true one, else 0. In `multi` it is the share of the image's
    known defects that a threshold of 0.5 decides correctly.
    """
    tf = import_tensorflow()
    if mode == "single":
        return tf.cast(tf.equal(tf.argmax(targets, axis=1), tf.argmax(logits, axis=1)), tf.float32)
    known = tf.logical_not(tf.math.is_nan(targets))
    correct = tf.logical_and(known, tf.equal(targets > 0.5, logits > 0))
    counted = tf.maximum(tf.reduce_sum(tf.cast(known, tf.float32), axis=1), 1.0)
    return tf.reduce_sum(tf.cast(correct, tf.float32), axis=1) / counted
