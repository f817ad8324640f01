"""Reads the pickles of a checkpoint as data: names and calls become notes of what stood there, and nothing is run.

A pickle is a program for a stack machine: it names functions and calls them, so whoever unpickles runs what the file's
author wrote. This machine knows the few instructions that PyTorch's checkpoints have. It imports nothing, calls
nothing, and makes only numbers, texts, tuples, lists and dicts, and the three classes below. It refuses all other
instructions, and all names but those in NAMES. Every length has a bound, and no
value is larger than what was read for it.

In: bytes, and where a pickle begins in them. Out: its value, and where it ends. Called by `torch_checkpoint` only.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

ORDERED_DICT: Final = "collections OrderedDict"
REBUILD_TENSOR: Final = "torch._utils _rebuild_tensor_v2"
FLOATS: Final = "torch FloatStorage"
INTEGERS: Final = "torch LongStorage"
NAMES = (ORDERED_DICT, REBUILD_TENSOR, FLOATS, INTEGERS)

# A checkpoint of 300 tensors has 14,000 instructions; its longest text is a tensor's name.
_MAX_INSTRUCTIONS = 200_000
_MAX_TEXT_BYTES = 500
_MAX_NAME_BYTES = 100
_MAX_INTEGER_BYTES = 10  # the number that begins each checkpoint has ten
_BEGINNING = b"\x80\x02"  # protocol 2
_STOP = b"."

_Container = TypeVar("_Container", list[object], dict[str, object])


class Malformed(Exception):
    """It is not a pickle of the kind that is read. The text says why."""


@dataclass(frozen=True, eq=False)
class Name:
    """Where a pickle names a class or function, its module and its name, with a blank between."""

    text: str


@dataclass(frozen=True, eq=False)
class TensorCall:
    """Where a pickle wants a tensor made."""

    arguments: tuple[object, ...]


@dataclass(frozen=True, eq=False)
class Reference:
    """Where a pickle refers to something outside it."""

    fields: tuple[object, ...]


def read_pickle(data: bytes, start: int) -> tuple[object, int]:
    """The value of the pickle that begins at `start`, and the position after it.

    Raises:
        Malformed: it is cut short, too large, or has an instruction or a name that is not read.
    """
    machine = _Machine(data, start)
    return machine.run(), machine.position


class _Machine:
    """Reads one pickle. `_stack` has the values since the last mark, `_below` those before each mark."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data = data
        self.position = start
        self._instruction_at = start
        self._stack: list[object] = []
        self._below: list[list[object]] = []
        self._memo: dict[int, object] = {}

    def run(self) -> object:
        if self._take(len(_BEGINNING)) != _BEGINNING:
            raise self._malformed("no pickle of protocol 2 begins")
        for _ in range(_MAX_INSTRUCTIONS):
            self._instruction_at = self.position
            code = self._take(1)
            if code == _STOP:
                return self._end()
            if code not in _INSTRUCTIONS:
                raise self._malformed(f"the instruction {code!r} is not one that is read")
            _INSTRUCTIONS[code](self)
        raise self._malformed(f"a pickle has more than {_MAX_INSTRUCTIONS:,} instructions")

    def push(self, value: object) -> None:
        self._stack.append(value)

    def push_number(self, layout: str) -> None:
        self.push(self._number(layout))

    def push_long_number(self) -> None:
        count = self._number("<B")
        if count > _MAX_INTEGER_BYTES:
            raise self._malformed(f"a number has {count} bytes, the limit is {_MAX_INTEGER_BYTES},")
        self.push(int.from_bytes(self._take(count), "little", signed=True))

    def push_text(self) -> None:
        count = self._number("<I")
        if count > _MAX_TEXT_BYTES:
            raise self._malformed(f"a text has {count:,} bytes, the limit is {_MAX_TEXT_BYTES:,},")
        try:
            self.push(self._take(count).decode("utf-8"))
        except UnicodeDecodeError as error:
            raise self._malformed("a text is not UTF-8") from error

    def push_name(self) -> None:
        text = f"{self._line()} {self._line()}"
        if text not in NAMES:
            raise self._malformed(f"it names {text!r}, where only {', '.join(NAMES)} may be named,")
        self.push(Name(text))

    def mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def push_marked_tuple(self) -> None:
        self.push(tuple(self._pop_to_mark()))

    def push_tuple(self, length: int) -> None:
        values = [self._pop() for _ in range(length)]
        self.push(tuple(reversed(values)))

    def append_marked(self) -> None:
        values = self._pop_to_mark()
        self._top(list).extend(values)

    def set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set(key, value)

    def set_marked_items(self) -> None:
        values = self._pop_to_mark()
        if len(values) % 2:
            raise self._malformed("a key lacks its value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            self._set(key, value)

    def remember(self, layout: str) -> None:
        number = self._number(layout)
        value = self._pop()
        self._memo[number] = value
        self.push(value)

    def recall(self, layout: str) -> None:
        number = self._number(layout)
        if number not in self._memo:
            raise self._malformed(f"value {number} is wanted again, but was not kept,")
        self.push(self._memo[number])

    def note_call(self) -> None:
        """Put down what would be called. An empty ordered dict becomes a dict, which later instructions fill."""
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise self._malformed("a call lacks its name or its arguments")
        if function.text == ORDERED_DICT and not arguments:
            self.push({})
        elif function.text == REBUILD_TENSOR:
            self.push(TensorCall(arguments))
        else:
            raise self._malformed(f"a call of {function.text} with {len(arguments)} arguments is not read")

    def note_reference(self) -> None:
        fields = self._pop()
        if not isinstance(fields, tuple):
            raise self._malformed("a reference has no fields")
        self.push(Reference(fields))

    def drop_attributes(self) -> None:
        """Ignore the versions of PyTorch's layers, which are the only attribute that a checkpoint's dict has."""
        attributes = self._pop()
        self._top(dict)
        if not isinstance(attributes, dict) or attributes.keys() != {"_metadata"}:
            raise self._malformed("attributes other than _metadata are set")

    def _malformed(self, reason: str) -> Malformed:
        return Malformed(f"{reason} at byte {self._instruction_at:,}")

    def _end(self) -> object:
        if self._below or len(self._stack) != 1:
            raise self._malformed("a pickle does not leave one value where it ends")
        return self._stack[0]

    def _take(self, count: int) -> bytes:
        if count > len(self._data) - self.position:
            raise self._malformed("it is cut short in what begins")
        self.position += count
        return self._data[self.position - count : self.position]

    def _number(self, layout: str) -> int:
        (number,) = struct.unpack(layout, self._take(struct.calcsize(layout)))
        return int(number)

    def _line(self) -> str:
        end = self._data.find(b"\n", self.position, self.position + _MAX_NAME_BYTES)
        if end < 0:
            raise self._malformed(f"a name has no end within {_MAX_NAME_BYTES} bytes")
        return self._take(end + 1 - self.position)[:-1].decode("ascii", "backslashreplace")

    def _pop(self) -> object:
        if not self._stack:
            raise self._malformed("a value is missing")
        return self._stack.pop()

    def _pop_to_mark(self) -> list[object]:
        if not self._below:
            raise self._malformed("a mark is missing")
        values, self._stack = self._stack, self._below.pop()
        return values

    def _top(self, kind: type[_Container]) -> _Container:
        if not self._stack or not isinstance(self._stack[-1], kind):
            raise self._malformed(f"a {kind.__name__} is missing")
        return self._stack[-1]

    def _set(self, key: object, value: object) -> None:
        target = self._top(dict)
        if not isinstance(key, str):
            raise self._malformed(f"a key is not a text but a value of type {type(key).__name__}")
        if key in target:
            raise self._malformed(f"the key {key!r} is there twice")
        target[key] = value


# By their codes. The comments have their names in Python's pickletools.
_INSTRUCTIONS: dict[bytes, Callable[[_Machine], None]] = {
    b"N": lambda machine: machine.push(None),  # NONE
    b"\x88": lambda machine: machine.push(True),  # NEWTRUE
    b"\x89": lambda machine: machine.push(False),  # NEWFALSE
    b"K": lambda machine: machine.push_number("<B"),  # BININT1
    b"M": lambda machine: machine.push_number("<H"),  # BININT2
    b"J": lambda machine: machine.push_number("<i"),  # BININT
    b"\x8a": _Machine.push_long_number,  # LONG1
    b"X": _Machine.push_text,  # BINUNICODE
    b"(": _Machine.mark,  # MARK
    b")": lambda machine: machine.push(()),  # EMPTY_TUPLE
    b"\x85": lambda machine: machine.push_tuple(1),  # TUPLE1
    b"\x86": lambda machine: machine.push_tuple(2),  # TUPLE2
    b"t": _Machine.push_marked_tuple,  # TUPLE
    b"]": lambda machine: machine.push([]),  # EMPTY_LIST
    b"e": _Machine.append_marked,  # APPENDS
    b"}": lambda machine: machine.push({}),  # EMPTY_DICT
    b"s": _Machine.set_item,  # SETITEM
    b"u": _Machine.set_marked_items,  # SETITEMS
    b"q": lambda machine: machine.remember("<B"),  # BINPUT
    b"r": lambda machine: machine.remember("<I"),  # LONG_BINPUT
    b"h": lambda machine: machine.recall("<B"),  # BINGET
    b"j": lambda machine: machine.recall("<I"),  # LONG_BINGET
    b"c": _Machine.push_name,  # GLOBAL
    b"R": _Machine.note_call,  # REDUCE
    b"Q": _Machine.note_reference,  # BINPERSID
    b"b": _Machine.drop_attributes,  # BUILD
}
