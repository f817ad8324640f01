"""Slots for pixels: they are reused, adjacent if possible, and never have two owners."""

from __future__ import annotations

import threading

import numpy as np

from worker.state.pixel_buffer import PixelBuffer, PixelSlot


def filled(buffer: PixelBuffer, count: int) -> list[PixelSlot]:
    slots = [buffer.take() for _ in range(count)]
    for tone, slot in enumerate(slots):
        slot.pixels[:] = tone
    return slots


def tones(buffer: PixelBuffer, slots: list[PixelSlot]) -> list[int]:
    return [int(image[0, 0, 0]) for image in buffer.as_batch(slots)]


def test_adjacent_slots_form_a_batch_without_a_copy() -> None:
    buffer = PixelBuffer(8, size_px=2)
    slots = filled(buffer, 4)
    batch = buffer.as_batch(slots)
    assert isinstance(batch, np.ndarray) and batch.shape == (4, 2, 2, 3) and batch.flags.c_contiguous
    assert np.shares_memory(batch, slots[0].pixels) and np.shares_memory(batch, slots[3].pixels)
    assert tones(buffer, slots) == [0, 1, 2, 3]


def test_scattered_slots_are_gathered_in_order() -> None:
    buffer = PixelBuffer(8, size_px=2)
    slots = filled(buffer, 5)
    chosen = [slots[0], slots[2], slots[4]]
    assert tones(buffer, chosen) == [0, 2, 4]
    assert all(
        image is slot.pixels for image, slot in zip(buffer.as_batch(chosen), chosen, strict=True)
    )  # without a copy


def test_slots_are_reused_only_after_they_are_given_back() -> None:
    buffer = PixelBuffer(4, size_px=2)
    slots = filled(buffer, 4)
    buffer.give_back(slots[1:3])
    again = [buffer.take(), buffer.take()]
    assert [slot.index for slot in again] == [1, 2]
    again[0].pixels[:] = 99
    assert tones(buffer, [slots[0], slots[3]]) == [0, 3]


def test_taking_a_slot_does_not_wait_when_all_are_taken() -> None:
    buffer = PixelBuffer(2, size_px=2)
    slots = filled(buffer, 4)
    assert [slot.index for slot in slots] == [0, 1, None, None]
    assert tones(buffer, slots) == [0, 1, 2, 3]
    buffer.give_back(slots)
    assert {buffer.take().index, buffer.take().index} == {0, 1}


def test_two_threads_never_get_the_same_slot() -> None:
    buffer = PixelBuffer(64, size_px=1)
    found: list[list[PixelSlot]] = [[], []]

    def take(into: list[PixelSlot]) -> None:
        for _ in range(32):
            into.append(buffer.take())

    threads = [threading.Thread(target=take, args=(into,)) for into in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(slot.index for into in found for slot in into if slot.index is not None) == list(range(64))
