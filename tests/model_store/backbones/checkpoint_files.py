"""Makes PyTorch checkpoints of the older form, and parts of them that PyTorch would never write.

The parts are a pickle's instructions, byte by byte. No pickle is made by Python's own module, and none is loaded.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

FLOATS, INTEGERS = b"ctorch\nFloatStorage\n", b"ctorch\nLongStorage\n"
ORDERED_DICT = b"ccollections\nOrderedDict\n"
REBUILD_TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
FORM = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # the number that marks the form
LITTLE_ENDIAN = b"}X\x0d\x00\x00\x00little_endian\x88s"
NOTHING, EMPTY_DICT = b"N", b"}"


def text(value: str) -> bytes:
    content = value.encode()
    return b"X" + struct.pack("<I", len(content)) + content


def number(value: int) -> bytes:
    """An integer of four bytes, or of up to 255."""
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + struct.pack("<B", len(content)) + content


def numbers(values: Iterable[int]) -> bytes:
    return row(*map(number, values))


def row(*values: bytes) -> bytes:
    """A tuple."""
    return b"(" + b"".join(values) + b"t"


def pickled(value: bytes) -> bytes:
    return b"\x80\x02" + value + b"."


def tensor(
    key: str,
    *,
    elements: int,
    shape: Iterable[int],
    strides: Iterable[int],
    offset: int = 0,
    kind: bytes = FLOATS,
    device: str = "cpu",
    hooks: bytes = EMPTY_DICT,
) -> bytes:
    """A call that makes a tensor."""
    storage = row(text("storage"), kind, text(key), text(device), number(elements), NOTHING) + b"Q"
    arguments = row(storage, number(offset), numbers(shape), numbers(strides), b"\x89", hooks)
    return REBUILD_TENSOR + arguments + b"R"


def named(tensors: Mapping[str, bytes]) -> bytes:
    """An ordered dict, as PyTorch writes it, with the attribute that PyTorch gives it."""
    items = b"".join(text(name) + value for name, value in tensors.items())
    attributes = b"}" + text("_metadata") + b"}s"
    return ORDERED_DICT + b")R(" + items + b"u" + attributes + b"b"


def storage(values: np.ndarray) -> bytes:
    return struct.pack("<q", values.size) + values.tobytes()


def assembled(
    state: bytes, keys: Iterable[str], storages: Iterable[bytes], *, form: bytes = FORM, system: bytes = LITTLE_ENDIAN
) -> bytes:
    """A file of these parts."""
    listed = b"](" + b"".join(map(text, keys)) + b"e"
    pickles = (form, b"M\xe9\x03", system, state, listed)
    return b"".join([*map(pickled, pickles), *storages])


def checkpoint(arrays: Mapping[str, Any]) -> bytes:
    """A file of arrays of float32 or int64, each with a storage of its own."""
    tensors = {
        name: tensor(
            name,
            elements=array.size,
            shape=array.shape,
            strides=[stride // array.itemsize for stride in array.strides],
            kind=FLOATS if array.dtype == np.float32 else INTEGERS,
        )
        for name, array in arrays.items()
    }
    return assembled(named(tensors), arrays, [storage(array) for array in arrays.values()])


def system_call(command: str) -> bytes:
    """The classic: whoever unpickles this runs the command."""
    return b"cos\nsystem\n" + text(command) + b"\x85R"
