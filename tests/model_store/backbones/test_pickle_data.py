"""Pickles read as data: only the instructions of a checkpoint, within bounds, and nothing is ever called."""

from __future__ import annotations

import pickletools

import pytest

from model_store.backbones.pickle_data import Malformed, read_pickle
from tests.model_store.backbones.checkpoint_files import number, pickled, text

KNOWN = """
    NONE NEWTRUE NEWFALSE BININT1 BININT2 BININT LONG1 BINUNICODE MARK EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE EMPTY_LIST
    APPENDS EMPTY_DICT SETITEM SETITEMS BINPUT LONG_BINPUT BINGET LONG_BINGET GLOBAL REDUCE BINPERSID BUILD STOP
"""
KNOWN_CODES = {opcode.code.encode("latin-1") for opcode in pickletools.opcodes if opcode.name in KNOWN.split()}


def read(instructions: bytes) -> object:
    value, end = read_pickle(pickled(instructions), 0)
    assert end == len(pickled(instructions))
    return value


@pytest.mark.parametrize("code", sorted({bytes([code]) for code in range(256)} - KNOWN_CODES))
def test_every_other_instruction_is_refused(code: bytes) -> None:
    """Whatever is on the stack, and whatever bytes follow, which may be its operands."""
    for before in (b"", b"}", b"]" + text("a"), b"(" + number(1)):
        with pytest.raises(Malformed, match="is not one that is read at byte"):
            read_pickle(pickled(before + code + b"\x00" * 300), 0)


def test_values() -> None:
    assert read(b"(NK\x03M\x00\x01J\xff\xff\xff\xff\x88\x89)t") == (None, 3, 256, -1, True, False, ())
    assert read(b"](" + text("é") + number(2**70) + b"K\x01\x85K\x02K\x03\x86e") == ["é", 2**70, (1,), (2, 3)]
    assert read(b"}(" + text("a") + b"K\x01" + text("b") + b"K\x02u") == {"a": 1, "b": 2}
    assert read(text("a") + b"q\x05r\x00\x01\x00\x00h\x05j\x00\x01\x00\x00\x86\x86") == ("a", ("a", "a"))


@pytest.mark.parametrize(
    ("instructions", "reason"),
    [
        (b"X\xff\xff\xff\xff", "a text has 4,294,967,295 bytes, the limit is 500"),
        (b"X\x02\x00\x00\x00\xff\xfe", "a text is not UTF-8"),
        (b"\x8a\xff" + bytes(255), "a number has 255 bytes, the limit is 10"),
        (b"c" + b"a" * 200 + b"\nb\n", "a name has no end within 100 bytes"),
        (b"cbuiltins\neval\n", "it names 'builtins eval', where only"),
        (b"ctorch\nFloatStorage \n", "it names 'torch FloatStorage '"),
        (b"c\x1b[2J\n\xff\n", r"it names '\\x1b\[2J \\\\xff'"),
        (b"h\x00", "value 0 is wanted again, but was not kept"),
        (b"", "does not leave one value"),
        (b"NN", "does not leave one value"),
        (b"N(N", "does not leave one value"),
        (b"q\x00", "a value is missing"),
        (b"t", "a mark is missing"),
        (b"N(Ne", "a list is missing"),
        (b"NNNs", "a dict is missing"),
        (b"}(Nu", "a key lacks its value"),
        (b"}K\x01Ns", "a key is not a text but a value of type int"),
        (b"}" + (text("a") + b"Ns") * 2, "the key 'a' is there twice"),
        (b"N)R", "a call lacks its name or its arguments"),
        (b"ccollections\nOrderedDict\nNR", "a call lacks its name or its arguments"),
        (b"ccollections\nOrderedDict\nN\x85R", "OrderedDict with 1 arguments is not read"),
        (b"ctorch\nFloatStorage\n)R", "a call of torch FloatStorage with 0 arguments is not read"),
        (b"NQ", "a reference has no fields"),
        (b"NNb", "a dict is missing"),
        (b"}}b", "attributes other than _metadata are set"),
        (b"}}" + text("__class__") + b"Nsb", "attributes other than _metadata are set"),
    ],
)
def test_what_is_out_of_order_is_refused(instructions: bytes, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        read(instructions)


def test_the_number_of_instructions_has_a_bound() -> None:
    with pytest.raises(Malformed, match="more than 200,000 instructions"):
        read(b"N" * 200_000)


def test_deep_nesting_costs_no_recursion() -> None:
    value = read(b"N" + b"\x85" * 150_000)
    assert isinstance(value, tuple)
    with pytest.raises(Malformed, match="does not leave one value"):
        read(b"(" * 150_000)
