"""Places for pixels: reused, side by side, and nobody's twice."""

from __future__ import annotations

import threading

import numpy as np

from worker.state.pixel_buffer import BatchBuffer, Place


def filled(buffer: BatchBuffer, count: int) -> list[Place]:
    places = [buffer.take() for _ in range(count)]
    for tone, place in enumerate(places):
        place.pixels[:] = tone
    return places


def tones(buffer: BatchBuffer, places: list[Place]) -> list[int]:
    return [int(image[0, 0, 0]) for image in buffer.together(places)]


def test_places_taken_in_turn_are_run_without_a_copy() -> None:
    buffer = BatchBuffer(8, size_px=2)
    places = filled(buffer, 4)
    batch = buffer.together(places)
    assert isinstance(batch, np.ndarray) and batch.shape == (4, 2, 2, 3) and batch.flags.c_contiguous
    assert np.shares_memory(batch, places[0].pixels) and np.shares_memory(batch, places[3].pixels)
    assert tones(buffer, places) == [0, 1, 2, 3]


def test_scattered_places_are_gathered_in_order() -> None:
    buffer = BatchBuffer(8, size_px=2)
    places = filled(buffer, 5)
    chosen = [places[0], places[2], places[4]]
    assert tones(buffer, chosen) == [0, 2, 4]
    assert all(
        image is place.pixels for image, place in zip(buffer.together(chosen), chosen, strict=True)
    )  # as they lie


def test_places_are_used_again_but_not_before_they_are_given_back() -> None:
    buffer = BatchBuffer(4, size_px=2)
    places = filled(buffer, 4)
    buffer.give_back(places[1:3])
    again = [buffer.take(), buffer.take()]
    assert [place.at for place in again] == [1, 2]
    again[0].pixels[:] = 99
    assert tones(buffer, [places[0], places[3]]) == [0, 3]


def test_when_all_are_taken_nobody_waits() -> None:
    buffer = BatchBuffer(2, size_px=2)
    places = filled(buffer, 4)
    assert [place.at for place in places] == [0, 1, None, None]
    assert tones(buffer, places) == [0, 1, 2, 3]
    buffer.give_back(places)
    assert {buffer.take().at, buffer.take().at} == {0, 1}


def test_two_threads_never_get_the_same_place() -> None:
    buffer = BatchBuffer(64, size_px=1)
    found: list[list[Place]] = [[], []]

    def take(into: list[Place]) -> None:
        for _ in range(32):
            into.append(buffer.take())

    threads = [threading.Thread(target=take, args=(into,)) for into in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(place.at for into in found for place in into if place.at is not None) == list(range(64))
