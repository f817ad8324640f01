"""Views of images, where there are too few images."""

from __future__ import annotations

import numpy as np
import pytest

from model_store.export.image_views import filled_up, views_of
from shared.images.arrays import Pixels

pytestmark = pytest.mark.training


def flat_frames(*values: int) -> Pixels:
    return np.array(values, np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)


def test_views_are_of_the_frames_in_turn() -> None:
    views = views_of(flat_frames(20, 220), 70, seed=1)
    assert views.shape == (70, 16, 16, 3)
    assert views.dtype == np.uint8
    means = views.mean(axis=(1, 2, 3))
    assert (means[0::2] < 110).all()
    assert (means[1::2] > 110).all()
    assert len(set(means.tolist())) > 60  # each in another light


def test_a_seed_gives_the_same_views_again() -> None:
    frames = flat_frames(90, 160)
    assert (views_of(frames, 5, seed=3) == views_of(frames, 5, seed=3)).all()
    assert (views_of(frames, 5, seed=3) != views_of(frames, 5, seed=4)).any()


def test_frames_are_filled_up_only_where_some_are_missing() -> None:
    frames = flat_frames(20, 220, 90)
    assert (filled_up(frames, 2, seed=1) == frames).all()
    filled = filled_up(frames, 8, seed=1)
    assert len(filled) == 8
    assert (filled[:3] == frames).all()
    assert (filled[3:] == views_of(frames, 5, seed=1)).all()
