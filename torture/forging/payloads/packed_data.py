"""Data that is not a call: pickles, bombs, broken JSON, other encodings."""

from __future__ import annotations

import bz2
import functools
import gzip
import json
import lzma
import marshal
import os
import pickle
import random
import zlib
from collections.abc import Callable, Mapping

from shared.jobs import SORT_IMAGE
from torture.forging.payloads.payload import REFUSED, TRIPWIRE, Payload, Traps, packed

_MB = 1_000_000


class _Reduced:
    """Calls the function when it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._call


def _pickled(traps: Traps, protocol: int) -> bytes:
    return pickle.dumps(_Reduced(os.system, traps.shell(f"pickle {protocol}")), protocol)


def _pickled_call(traps: Traps) -> bytes:
    """What RQ's default serializer makes of a call; unpickling it runs something too."""
    return pickle.dumps((SORT_IMAGE, None, (_Reduced(os.system, traps.shell("call")),), {}))


# What leaves a line in the record if it is unpickled; a test unpickles each of them.
PICKLES: Mapping[str, Callable[[Traps], bytes]] = {
    **{f"pickle, protocol {number}": functools.partial(_pickled, protocol=number) for number in range(6)},
    "pickle with exec": lambda traps: pickle.dumps(_Reduced(exec, traps.python("exec"))),
    "pickle of a call": _pickled_call,
    "pickle of the tripwire": lambda traps: f"c{TRIPWIRE}\ntrip\n(tR.".encode(),
    "pickle that imports": lambda traps: b"cimportlib\nimport_module\n(V" + TRIPWIRE.encode() + b"\ntR.",
}


@functools.cache
def _bomb(megabytes: int) -> bytes:
    """Unpacks to so many MB of spaces. A megabyte is packed only once, and that is repeated."""
    block, checksum = b" " * _MB, 1
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed_block = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    for _ in range(megabytes):
        checksum = zlib.adler32(block, checksum)
    return b"\x78\xda" + packed_block * megabytes + b"\x03\x00" + checksum.to_bytes(4, "big")


def _text(text: str | bytes) -> bytes:
    return zlib.compress(text if isinstance(text, bytes) else text.encode())


def _call_with(argument: str) -> bytes:
    return _text(f'["{SORT_IMAGE}", null, [{argument}], {{}}]')


_RAW: Mapping[str, Callable[[], bytes]] = {
    "none": lambda: b"",
    "a zero byte": lambda: b"\0",
    "not zlib": lambda: b"\x00\xff junk",
    "JSON that is not packed": lambda: json.dumps([SORT_IMAGE, None, [{}], {}]).encode(),
    "cut off": lambda: packed([SORT_IMAGE, None, [{}], {}])[:-6],
    "a wrong checksum": lambda: packed([SORT_IMAGE, None, [{}], {}])[:-4] + b"\0\0\0\0",
    "a zlib dictionary": lambda: b"\x78\xbb" + bytes(20),
    "gzip": lambda: gzip.compress(b"[]"),
    "bz2": lambda: bz2.compress(b"[]"),
    "lzma": lambda: lzma.compress(b"[]"),
    "raw deflate": lambda: _text("[]")[2:-4],
    "packed twice": lambda: zlib.compress(packed([SORT_IMAGE, None, [{}], {}])),
    "marshal": lambda: zlib.compress(marshal.dumps((SORT_IMAGE, None, (), {}))),
    "YAML with a tag": lambda: _text("!!python/object/apply:os.system ['true']"),
    "10 MB": lambda: random.Random(1).randbytes(10 * _MB),  # noqa: S311 - so that it does not compress
    "packed nothing": lambda: _text(""),
    "not JSON": lambda: _text('["worker.tasks.sort_image", null, [{'),
    "JSON with a comma too many": lambda: _text("[1,]"),
    "JSON with a comment": lambda: _text("[] // call"),
    "two documents": lambda: _text("[] []"),
    "single quotes": lambda: _text(f"['{SORT_IMAGE}', None, [{{}}], {{}}]"),
    "not UTF-8": lambda: _text(b'["\xff\xfe"]'),
    "UTF-16": lambda: _text("[]".encode("utf-16")),
    "UTF-32": lambda: _text("[]".encode("utf-32")),
    "a byte order mark": lambda: _text(b"\xef\xbb\xbf[]"),
    "half a surrogate pair": lambda: _call_with('{"line": "\\ud800"}'),
    "zero bytes": lambda: _text(bytes(1000)),
    "a number of 5,000 digits": lambda: _call_with('{"encoder_count": 1' + "0" * 5000 + "}"),
    "a number of 90,000 digits": lambda: _text("9" * 90_000),
    "a fraction of 90,000 digits": lambda: _call_with('{"captured_at": 0.' + "9" * 90_000 + "}"),
    "an exponent of 90,000 digits": lambda: _call_with('{"captured_at": 1e' + "9" * 90_000 + "}"),
    "90,000 opening brackets": lambda: _text("[" * 90_000),
    "45,000 nested lists": lambda: _text("[" * 45_000 + "]" * 45_000),
    "18,000 nested objects": lambda: _text('{"a":' * 18_000),
    "nested lists in the ImageJob": lambda: _call_with('{"line": ' + "[" * 900 + "]" * 900 + "}"),
    "30,000 arguments": lambda: _text(f'["{SORT_IMAGE}", null, [{"{}," * 30_000}{{}}], {{}}]'),
    "9,000 fields": lambda: _call_with("{" + ",".join(f'"f{n}": 1' for n in range(9_000)) + "}"),
    "a field of 95,000 characters": lambda: _call_with('{"line": "' + "l" * 95_000 + '"}'),
    "just too long": lambda: _text(" " * 100_001),
    "50 MB, packed": lambda: _bomb(50),
    "90 MB, packed in 100 KB": lambda: _bomb(90),
    "1 GB, packed in 1 MB": lambda: _bomb(1_000),
    "a bomb in a bomb": lambda: zlib.compress(_bomb(1_000), 9),
}


def _refused(make: Callable[[Traps], bytes]) -> Payload:
    return Payload(outcomes=REFUSED, data=make)


def _raw(make: Callable[[], bytes]) -> Payload:
    return Payload(outcomes=REFUSED, data=lambda traps: make())


def _packed(make: Callable[[Traps], bytes]) -> Payload:
    return Payload(outcomes=REFUSED, data=lambda traps: zlib.compress(make(traps)))


DATA: Mapping[str, Payload] = {
    **{name: _refused(make) for name, make in PICKLES.items()},
    **{f"{name}, packed": _packed(make) for name, make in PICKLES.items()},
    **{f"data: {name}": _raw(make) for name, make in _RAW.items()},
}
