"""Reads PyTorch's checkpoints (`.pth`, in the form before version 1.6) without PyTorch, and without unpickling.

Such a file has five pickles: a number that marks the form, a version, facts about the machine, the tensors by their
names, and the keys of the storages. Then come the storages in the order of their keys, each with its number of elements
in eight bytes and the elements, all little-endian. A tensor is a view of its storage: an offset, a shape and strides.

In: the file's bytes. Out: an array for each name. `pickle_data` reads the pickles as data and runs nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.backbones.pickle_data import FLOATS, INTEGERS, Malformed, Name, Reference, TensorCall, read_pickle
from shared.errors import BadBackbone

_FORM = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_TYPES: dict[str, np.dtype[Any]] = {FLOATS: np.dtype("<f4"), INTEGERS: np.dtype("<i8")}
_MAX_DIMENSIONS = 4  # a convolution's
_COUNT = struct.Struct("<q")


@dataclass(frozen=True)
class _Tensor:
    """A tensor's place in its storage; offset and strides are counted in elements."""

    storage: str
    dtype: np.dtype[Any]
    storage_elements: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_checkpoint(data: bytes, *, origin: str) -> dict[str, NDArray[Any]]:
    """The tensors of a checkpoint by name, as arrays of their own: float32, or int64 for counters.

    Args:
        data: the whole file.
        origin: the file as messages name it.

    Raises:
        BadBackbone: it is not such a file, or is damaged; the message says where.
    """
    try:
        tensors, keys, position = _header(data)
        starts = _storage_starts(data, position, keys, tensors.values())
        return {name: _array(data, tensor, starts[tensor.storage]) for name, tensor in tensors.items()}
    except Malformed as error:
        raise BadBackbone(
            f"{origin} is not used: {error}. It should be a PyTorch checkpoint with nothing but tensors, in the form "
            "before version 1.6."
        ) from error


def _header(data: bytes) -> tuple[dict[str, _Tensor], list[str], int]:
    """The tensors, the storages' keys, and the position of the first storage."""
    form, position = read_pickle(data, 0)
    version, position = read_pickle(data, position)
    if (form, version) != (_FORM, _VERSION):
        raise Malformed("it begins with other numbers than a PyTorch checkpoint")
    machine, position = read_pickle(data, position)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise Malformed("it does not say that its numbers are little-endian")
    tensors, position = read_pickle(data, position)
    keys, position = read_pickle(data, position)
    if not isinstance(tensors, dict) or not tensors:
        raise Malformed("it has no tensors")
    if not isinstance(keys, list):
        raise Malformed("it has no list of storages")
    return {name: _tensor(name, value) for name, value in tensors.items()}, [_text(key) for key in keys], position


def _tensor(name: str, value: object) -> _Tensor:
    if not isinstance(value, TensorCall) or len(value.arguments) != 6:
        raise Malformed(f"{name!r} is not a tensor")
    reference, offset, shape, strides, needs_gradient, hooks = value.arguments
    if not isinstance(needs_gradient, bool) or hooks != {}:
        raise Malformed(f"the tensor {name!r} is not plain: it has hooks")
    if not isinstance(reference, Reference) or len(reference.fields) != 6:
        raise Malformed(f"the tensor {name!r} has no storage")
    word, kind, key, device, elements, view = reference.fields
    if (word, device, view) != ("storage", "cpu", None) or not isinstance(kind, Name) or kind.text not in _TYPES:
        raise Malformed(f"the storage of {name!r} is not one of numbers on the CPU")
    tensor = _Tensor(
        _text(key), _TYPES[kind.text], _size(elements), _size(offset, least=0), _sizes(shape), _sizes(strides)
    )
    _check_view(name, tensor)
    return tensor


def _check_view(name: str, tensor: _Tensor) -> None:
    """Refuse a view that leaves its storage, or has an element twice: its array could be larger than the file."""
    if len(tensor.shape) != len(tensor.strides) or len(tensor.shape) > _MAX_DIMENSIONS:
        raise Malformed(f"the tensor {name!r} has {len(tensor.shape)} dimensions and {len(tensor.strides)} strides")
    last = 0  # of the elements that the dimensions with smaller strides reach
    for stride, length in sorted(zip(tensor.strides, tensor.shape, strict=True)):
        if length == 1:
            continue
        if stride <= last:
            raise Malformed(f"elements of the tensor {name!r} overlap")
        last += stride * (length - 1)
    if tensor.offset + last >= tensor.storage_elements:
        raise Malformed(f"the tensor {name!r} of shape {tensor.shape} leaves its storage")


def _storage_starts(data: bytes, position: int, keys: list[str], tensors: Collection[_Tensor]) -> dict[str, int]:
    """Where the elements of each storage begin. Each storage belongs to one tensor, and the file ends with the last."""
    owners = {tensor.storage: tensor for tensor in tensors}
    if not len(keys) == len(owners) == len(tensors) or owners.keys() != set(keys):
        raise Malformed(f"it lists {len(keys):,} storages for {len(tensors):,} tensors, not one for each")
    starts = {}
    for key in keys:
        elements = owners[key].storage_elements
        starts[key] = position + _COUNT.size
        end = starts[key] + elements * owners[key].dtype.itemsize
        if end > len(data):
            raise Malformed(f"it is cut short in the storage {key!r} of {elements:,} elements")
        (found,) = _COUNT.unpack_from(data, position)
        if found != elements:
            raise Malformed(f"the storage {key!r} has {found:,} elements, but should have {elements:,}")
        position = end
    if position != len(data):
        raise Malformed(f"{len(data) - position:,} bytes follow its last storage")
    return starts


def _array(data: bytes, tensor: _Tensor, start: int) -> NDArray[Any]:
    itemsize = tensor.dtype.itemsize
    # The stride of a dimension of length 1 is never used, and may be any number.
    strides = [
        stride * itemsize if length > 1 else itemsize
        for stride, length in zip(tensor.strides, tensor.shape, strict=True)
    ]
    offset = start + tensor.offset * itemsize
    view: NDArray[Any] = np.ndarray(tensor.shape, tensor.dtype, buffer=data, offset=offset, strides=strides)
    return np.array(view, tensor.dtype.newbyteorder("="), order="C")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise Malformed(f"the key of a storage is not a text but a value of type {type(value).__name__}")
    return value


def _size(value: object, *, least: int = 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        shown = value if isinstance(value, int) else f"a value of type {type(value).__name__}"
        raise Malformed(f"a size is {shown}, but should be a number from {least} on")
    return value


def _sizes(value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple):
        raise Malformed(f"a shape is not a tuple but a value of type {type(value).__name__}")
    return tuple(_size(length) for length in value)
