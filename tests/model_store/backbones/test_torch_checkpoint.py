"""PyTorch's older checkpoints: read as numbers; what is not one, or does more than hold numbers, is refused."""

from __future__ import annotations

import os
import random
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model_store.backbones.torch_checkpoint import read_checkpoint
from shared.errors import BadBackbone
from tests.model_store.backbones.checkpoint_files import (
    EMPTY_DICT,
    FLOATS,
    FORM,
    LITTLE_ENDIAN,
    NOTHING,
    assembled,
    checkpoint,
    named,
    number,
    numbers,
    row,
    storage,
    system_call,
    tensor,
    text,
)

ARRAYS = {
    "stem.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "stem.bias": np.array([0.5, -1.5], np.float32),
    "steps": np.array(7, np.int64),
}
FOUR = np.arange(4, dtype=np.float32)
# What the fuzzing puts in.
INSTRUCTIONS = [bytes([code]) for code in b"(N)}].]RbQcesuqhrjKMJX\x85\x86\x87\x88\x89\x8a"] + [FLOATS, numbers((1, 2))]
Make = Callable[[], bytes]


def one(value: bytes, *, content: bytes | None = None, keys: tuple[str, ...] = ("k",)) -> bytes:
    """A file with one tensor, `weight`, and a storage of four numbers."""
    return assembled(named({"weight": value}), keys, [storage(FOUR) if content is None else content])


def four(*, shape: tuple[int, ...] = (4,), strides: tuple[int, ...] = (1,), **others: object) -> bytes:
    return one(tensor("k", **({"elements": 4, "shape": shape, "strides": strides} | others)))  # type: ignore[arg-type]


def test_arrays_come_back_with_their_names_types_and_values() -> None:
    found = read_checkpoint(checkpoint(ARRAYS), origin="a.pth")
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)


def test_views_are_read_by_offset_and_strides_and_do_not_hold_the_file() -> None:
    (found,) = read_checkpoint(four(shape=(1, 2), strides=(2**70, 2), offset=1), origin="a.pth").values()
    np.testing.assert_array_equal(found, [[1, 3]])
    assert found.flags["OWNDATA"]
    assert found.flags["C_CONTIGUOUS"]
    found[...] = 0  # can be changed
    turned = np.arange(6, dtype=np.float32)
    value = tensor("k", elements=6, shape=(2, 3), strides=(1, 2))
    (found,) = read_checkpoint(one(value, content=storage(turned)), origin="a.pth").values()
    np.testing.assert_array_equal(found, turned.reshape(3, 2).T)


def test_a_file_that_is_cut_short_anywhere_is_refused() -> None:
    whole = checkpoint(ARRAYS)
    for length in range(len(whole)):
        with pytest.raises(BadBackbone, match=r"a\.pth is not used: .*before version 1\.6"):
            read_checkpoint(whole[:length], origin="a.pth")


REFUSED: dict[str, tuple[Make, str]] = {
    "another form": (lambda: assembled(named({}), (), (), form=number(3)), "begins with other numbers"),
    "a zip": (lambda: b"PK\x03\x04" + bytes(50), "no pickle of protocol 2 begins at byte 0"),
    "a later protocol": (lambda: b"\x80\x04" + bytes(50), "no pickle of protocol 2 begins at byte 0"),
    "big-endian": (lambda: assembled(named({}), (), (), system=LITTLE_ENDIAN.replace(b"\x88", b"\x89")), "endian"),
    "no facts": (lambda: assembled(named({}), (), (), system=NOTHING), "little-endian"),
    "no tensors": (lambda: assembled(named({}), (), ()), "it has no tensors"),
    "a number": (lambda: one(number(3)), "'weight' is not a tensor"),
    "the dict in itself": (lambda: one(b"q\x00h\x00"), "a value is missing|is not a tensor"),
    "a tensor of two values": (
        lambda: one(b"ctorch._utils\n_rebuild_tensor_v2\n" + row(b"N", b"N") + b"R"),
        "not a ten",
    ),
    "no storage": (lambda: one(tensor("k", elements=4, shape=(4,), strides=(1,)).replace(b"Q", b"")), "no storage"),
    "hooks": (lambda: four(hooks=LITTLE_ENDIAN), "it has hooks"),
    "on a GPU": (lambda: four(device="cuda:0"), "on the CPU"),
    "a storage of dicts": (lambda: four(kind=b"ccollections\nOrderedDict\n"), "on the CPU"),
    "overlap": (lambda: four(shape=(2, 3), strides=(1, 1)), "elements of the tensor 'weight' overlap"),
    "one element again and again": (lambda: four(shape=(2**31 - 1,), strides=(0,)), "a size is 0"),
    "an interleaved overlap": (lambda: four(shape=(2, 2), strides=(2, 2)), "overlap"),
    "beyond its storage": (lambda: four(shape=(5,)), r"'weight' of shape \(5,\) leaves its storage"),
    "beyond by its offset": (lambda: four(offset=1), "leaves its storage"),
    "beyond by its stride": (lambda: four(shape=(2,), strides=(4,)), "leaves its storage"),
    "beyond by a huge stride": (lambda: four(shape=(2,), strides=(2**70,)), "leaves its storage"),
    "a negative offset": (lambda: four(offset=-1), "a size is -1"),
    "a negative stride": (lambda: four(strides=(-1,)), "a size is -1"),
    "an empty dimension": (lambda: four(shape=(0,)), "a size is 0"),
    "one stride too many": (lambda: four(strides=(1, 1)), "1 dimensions and 2 strides"),
    "many dimensions": (lambda: four(shape=(1,) * 40, strides=(1,) * 40), "40 dimensions"),
    "another count": (lambda: four(elements=3, shape=(3,)), "has 4 elements, but should have 3"),
    "a huge count": (lambda: four(elements=2**70), "cut short in the storage 'k'"),
    "a storage too few": (lambda: one(tensor("k", elements=4, shape=(4,), strides=(1,)), keys=()), "lists 0 storages"),
    "another storage": (
        lambda: one(tensor("k", elements=4, shape=(4,), strides=(1,)), keys=("m",)),
        "lists 1 storages",
    ),
    "a storage listed twice": (
        lambda: one(tensor("k", elements=4, shape=(4,), strides=(1,)), keys=("k", "k")),
        "2 stor",
    ),
    "a shared storage": (
        lambda: assembled(
            named({name: tensor("k", elements=4, shape=(4,), strides=(1,)) for name in "ab"}), ("k",), [storage(FOUR)]
        ),
        "lists 1 storages for 2 tensors",
    ),
    "more behind": (lambda: checkpoint(ARRAYS) + b"x", "1 bytes follow its last storage"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_the_message_says_what_is_wrong(kind: str) -> None:
    make, reason = REFUSED[kind]
    with pytest.raises(BadBackbone, match=reason):
        read_checkpoint(make(), origin="a.pth")


@pytest.mark.parametrize("place", ["form", "system", "state", "tensor", "hooks", "attribute"])
def test_a_pickle_that_runs_a_command_runs_nothing(place: str, tmp_path: Path) -> None:
    tripwire = tmp_path / "ran"
    call = system_call(f"touch {tripwire}")
    whole = {"form": FORM, "system": LITTLE_ENDIAN, "state": named({"weight": number(1)})}
    value = tensor("k", elements=4, shape=(4,), strides=(1,), hooks=call if place == "hooks" else EMPTY_DICT)
    if place in ("tensor", "hooks"):
        whole["state"] = named({"weight": call if place == "tensor" else value})
    elif place == "attribute":
        whole["state"] = b"}" + b"}" + text("_metadata") + call + b"s" + b"b"
    else:
        whole[place] = call
    data = assembled(whole["state"], ("k",), [storage(FOUR)], form=whole["form"], system=whole["system"])
    with pytest.raises(BadBackbone, match="it names 'os system', where only"):
        read_checkpoint(data, origin="a.pth")
    assert not tripwire.exists()
    assert not os.listdir(tmp_path)


def test_whatever_is_changed_is_read_or_refused() -> None:
    """Bytes are changed, dropped, repeated and exchanged for instructions, with a few thousand seeds."""
    whole = checkpoint(ARRAYS)
    refused = 0
    for seed in range(4000):
        rng, data = random.Random(seed), bytearray(whole)
        for _ in range(rng.choice((1, 1, 2, 8))):
            at, length = rng.randrange(len(data)), rng.choice((1, 1, 2, 5, 40))
            piece = bytes(data[at : at + length])
            data[at : at + length] = rng.choice(
                (
                    b"",
                    piece * 2,
                    bytes([rng.randrange(256)]),
                    rng.choice(INSTRUCTIONS),
                    struct.pack("<i", -1),
                    piece[::-1],
                )
            )
        try:
            found = read_checkpoint(bytes(data), origin="a.pth")
        except BadBackbone as error:
            refused += 1
            assert re.match(r"a\.pth is not used: ", str(error))
        else:
            assert sum(array.nbytes for array in found.values()) <= len(data)
    assert 2000 < refused < 4000
