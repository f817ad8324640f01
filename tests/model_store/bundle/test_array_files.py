"""Arrays are read only if their headers are true and their sizes bounded."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_store.bundle.array_files import read_npy, read_npz
from model_store.bundle.files import open_bundle
from model_store.bundle.golden import read_golden
from model_store.bundle.manifest import GOLDEN_FILE
from model_store.bundle.training_digests import TRAINING_DIGESTS_FILE, read_training_digests
from shared.errors import BadBundle

MAX_BYTES = 1_000_000
A_TERABYTE = 2**40


def header(shape: tuple[int, ...], dtype: Any = np.uint8, *, major: int = 1) -> bytes:
    """The header of a `.npy` file that claims an array."""
    out = io.BytesIO()
    values = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    (np.lib.format.write_array_header_1_0 if major == 1 else np.lib.format.write_array_header_2_0)(out, values)
    return out.getvalue()


def npz(path: Path, method: int = zipfile.ZIP_DEFLATED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


def read(path: Path, *names: str, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    with path.open("rb") as file:
        return read_npz(file, names, max_bytes=max_bytes)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_as_numpy_writes_them_are_read(tmp_path: Path, save: Any) -> None:
    arrays = {"rows": np.arange(12, dtype=np.float32).reshape(3, 4), "columns": np.asfortranarray(np.eye(3))[:, :2]}
    arrays |= {"none": np.zeros((0, 4), np.uint64), "one": np.array(5), "other": np.array(["text"])}
    save(tmp_path / "a.npz", **arrays)
    found = read(tmp_path / "a.npz", "rows", "columns", "none", "one")
    for name, array in found.items():
        np.testing.assert_array_equal(array, arrays[name])
        assert array.dtype == arrays[name].dtype


def test_golden_images_that_claim_a_terabyte_are_refused(copied: Path) -> None:
    bundle = open_bundle(copied)
    npz(copied / GOLDEN_FILE, images=header((A_TERABYTE,)), float=b"", int8=b"")
    with pytest.raises(BadBundle, match=r"golden\.npz can't be read: its array images claims 1,099,511,627,776 bytes"):
        read_golden(bundle)


def test_digests_that_claim_a_terabyte_are_refused(tmp_path: Path) -> None:
    npz(tmp_path / TRAINING_DIGESTS_FILE, train=header((A_TERABYTE // 8,), np.uint64), validation=b"")
    with pytest.raises(BadBundle, match="may have at most"):
        read_training_digests(tmp_path)


def test_a_claim_is_compared_with_the_size_in_the_file(tmp_path: Path) -> None:
    npz(tmp_path / "a.npz", a=header((1000,)) + bytes(999), b=header((1000,)) + bytes(1001))
    for name, found in (("a", 999), ("b", 1001)):
        with pytest.raises(ValueError, match=rf"claims 1,000 bytes, but its file has {len(header((1000,))) + found:,}"):
            read(tmp_path / "a.npz", name)


def test_the_bound_is_for_all_arrays_together(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros(600, np.uint8), b=np.zeros(600, np.uint8))
    assert len(read(tmp_path / "a.npz", "a", "b", max_bytes=1200)) == 2
    with pytest.raises(ValueError, match="its array b claims 600 bytes, but may have at most 599"):
        read(tmp_path / "a.npz", "a", "b", max_bytes=1199)


def test_a_member_that_inflates_to_more_than_it_claims_is_not_inflated(tmp_path: Path) -> None:
    """The zip's directory claims few bytes for 100 MB of zeros."""
    claimed = header((10,)) + bytes(10)
    path = npz(tmp_path / "a.npz", a=header((10,)) + bytes(100_000_000))
    content = path.read_bytes()
    real = (len(claimed) + 99_999_990).to_bytes(4, "little")
    assert content.count(real) == 2
    path.write_bytes(content.replace(real, len(claimed).to_bytes(4, "little")))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="it is damaged: Bad CRC-32"):
            read(path, "a")
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path: Path, method: int) -> None:
    npz(tmp_path / "a.npz", method, a=header((10,)) + bytes(10))
    with pytest.raises(ValueError, match="its array a can't be read: compressed with"):
        read(tmp_path / "a.npz", "a")


def test_a_large_directory_is_not_read(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", a=header((10,)) + bytes(10), **{f"m{number}": b"" for number in range(2000)})
    with pytest.raises(ValueError, match="more members"):
        read(path, "a")
    content = path.read_bytes()
    count, size, at = struct.unpack("<HLL", content[-12:-2])
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, at)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(content) - 22, 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFF_FFFF, 0xFFFF_FFFF, 0)
    for tail in (record + locator + end, content[-22:] + b"a comment"):  # the first has the size elsewhere
        path.write_bytes(content[:-22] + tail)
        with pytest.raises(ValueError, match="more members"):
            read(path, "a")


@pytest.mark.parametrize(
    "member",
    [
        b"",
        b"no header",
        header((1,), "O") + bytes(8),
        header((1,), "S4") + bytes(4),
        header((1,), [("a", "u1")]) + bytes(1),
        header((-1, -10)) + bytes(10),
        header((10,), major=2) + bytes(10),
        header((10,)).replace(b"(10,)", b"(a,) ") + bytes(10),
    ],
    ids=["nothing", "text", "objects", "bytes", "fields", "negative", "version 2", "no numbers"],
)
def test_members_that_are_no_arrays_of_numbers_are_refused(tmp_path: Path, member: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(npz(tmp_path / "a.npz", a=member), "a")


def test_a_damaged_or_absent_member_is_refused(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", a=header((1000,)) + np.random.default_rng(1).bytes(1000))
    with pytest.raises(ValueError, match="lacks the array b"):
        read(path, "b")
    content = bytearray(path.read_bytes())
    content[60:64] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        read(path, "a")


def test_a_single_array(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.arange(4, dtype=np.float32))
    with path.open("rb") as file:
        assert read_npy(file, max_bytes=16).tolist() == [0, 1, 2, 3]
    with path.open("rb") as file, pytest.raises(ValueError, match="claims 16 bytes, but may have at most 15"):
        read_npy(file, max_bytes=15)
    path.write_bytes(header((A_TERABYTE,)))
    with path.open("rb") as file, pytest.raises(ValueError, match="claims 1,099,511,627,776 bytes, but its file has"):
        read_npy(file, max_bytes=2 * A_TERABYTE)


@pytest.mark.parametrize(
    "text",
    [
        "-" * 9000,
        "(" * 9000,
        "{'descr': '|u1', 'fortran_order': False, 'shape': (True,), }",
        "{1: 0, 'descr': '|u1', 'fortran_order': False}",
        "{'descr': [], 'fortran_order': False, 'shape': ()}",
        "{'descr': {}, 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': 7}",
    ],
)
def test_headers_that_numpy_stumbles_over_are_refused(tmp_path: Path, text: str) -> None:
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()
    with pytest.raises(ValueError, match="its array images"):
        read(npz(tmp_path / "a.npz", images=data), "images")
