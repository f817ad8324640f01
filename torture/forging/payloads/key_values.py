"""Values for the fields of Sortline's own hashes."""

from __future__ import annotations

from collections.abc import Mapping

VALUES: Mapping[str, str | bytes] = {
    "nothing": "",
    "a text": "many",
    "control characters": "\x1b[2J\n",
    "not UTF-8": b"\xff\xfe",
    "a negative number": "-7",
    "a huge negative number": "-1e308",
    "nan": "nan",
    "inf": "inf",
    "-inf": "-inf",
    "too large a number": "1e400",
    "a huge number": "1e308",
    "the largest count": "9223372036854775807",
    "400 digits": "9" * 400,
    "a hexadecimal number": "0x7fffffff",
    "a tiny number": "0.000001",
    "three numbers": "1e308 nan -1",
    "three huge numbers": f"{'9' * 60}.0 0.000001 {'9' * 12}.0",
    "1 MB": "v" * 1_000_000,
}
# So many fields are added to a hash at once.
MANY_FIELDS = 100_000
