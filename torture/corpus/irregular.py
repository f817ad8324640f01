"""Irregular entries of a folder: archives that lie or burst, files that are none, endless links, and odd names.

Unlike the files of `torture.corpus.case`, they can harm before a decoder sees a byte: at the listing, the opening and
the unpacking. So they go through whole commands. `make_folder` puts good images beside them, which must be sorted.
"""

from __future__ import annotations

import gzip
import itertools
import os
import socket
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torture.corpus.pictures import encoded, picture

# The folders below the one that is made, as a dataset has them: one for each class.
CLASSES = ("good", "no cap")
GOOD_IMAGES = 3  # in each class
SPARSE_BYTES = 20_000_000_000
LINK_LEVELS = 22  # two links at each: four million paths
BURST_BYTES = 30_000_000  # more than an image may have
HEADER_BYTES, HEADER_PIECES = 1 << 30, 64
LISTED_MEMBERS = 200_001  # one more than an archive may have

NOT_REGULAR = "not a regular file, but a pipe, socket, device or link"
NO_IMAGE = "not an accepted image but"
TOO_LARGE = r"\(max_image_bytes\)"
BURSTING_HEADER = "the headers of one of its members are damaged, or have more than 65,536 bytes"


@dataclass(frozen=True, slots=True)
class Irregular:
    """One entry. The reason is a pattern that the commands' message about it matches."""

    name: str
    make: Callable[[Path], None]
    reason: str


# archives ───────────────────────────────────────────────────────────────────────────────────────────


def _zip_of(
    method: int, *, data: bytes = bytes(BURST_BYTES), name: str = f"{CLASSES[0]}/a.jpg"
) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr(name, data)

    return make


def _patched_zip(offset: int, field: bytes) -> Callable[[Path], None]:
    """A zip that bursts, with a field of its member's entry in the directory, and of its own header, overwritten."""

    def make(path: Path) -> None:
        _zip_of(zipfile.ZIP_DEFLATED)(path)
        content = bytearray(path.read_bytes())
        for signature, at in ((b"PK\x01\x02", offset), (b"PK\x03\x04", offset - 2)):
            begin = content.index(signature) + at
            content[begin : begin + len(field)] = field
        path.write_bytes(content)

    return make


def _huge_directory(path: Path) -> None:
    """Lists more members than an archive may have, and claims to list one."""
    entry = struct.pack("<4s24xH16x", b"PK\x01\x02", 1)  # all fields are 0, but for the length of the name
    size_bytes = LISTED_MEMBERS * (len(entry) + 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, size_bytes, 0, 0)
    path.write_bytes((entry + b"a") * LISTED_MEMBERS + end)


def _nested_zip(path: Path) -> None:
    _zip_of(zipfile.ZIP_DEFLATED)(path)
    inner = path.read_bytes()
    _zip_of(zipfile.ZIP_STORED, data=inner, name=f"{CLASSES[0]}/inner.zip")(path)


def _cut_zip(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04" + bytes(99))


def archives() -> list[Irregular]:
    """Zips whose members are not read, or burst. Each has one member, but for the one that lists too many."""
    size_of_100 = struct.pack("<L", 100)
    return [
        Irregular("bzip2.zip", _zip_of(zipfile.ZIP_BZIP2), "compressed with bzip2, which is not read"),
        Irregular("lzma.zip", _zip_of(zipfile.ZIP_LZMA), "compressed with LZMA, which is not read"),
        Irregular("deflate64.zip", _patched_zip(10, b"\x09\0"), "compressed with deflate64, which is not read"),
        Irregular("burst.zip", _zip_of(zipfile.ZIP_DEFLATED), "expands to more than 100 times its own size"),
        Irregular("lying.zip", _patched_zip(24, size_of_100), "can't be read|expands to more than"),
        Irregular("huge-directory.zip", _huge_directory, "200,001 files in one archive, the limit is 200,000"),
        Irregular("nested.zip", _nested_zip, f"{NO_IMAGE} a zip archive"),
        Irregular("cut.zip", _cut_zip, "not a usable zip archive|nor a complete zip"),
    ]


def _tar_with_header(kind: bytes) -> Callable[[Path], None]:
    """A tar.gz whose first header claims, and has, HEADER_BYTES of attributes."""

    def make(path: Path) -> None:
        header, member = tarfile.TarInfo("header"), tarfile.TarInfo("saved_model.pb")
        header.type, header.size = kind, HEADER_BYTES
        zeros = gzip.compress(bytes(HEADER_BYTES // HEADER_PIECES))  # a gzip file may consist of several
        ends = [gzip.compress(data) for data in (header.tobuf(), member.tobuf() + bytes(1024))]
        path.write_bytes(ends[0] + zeros * HEADER_PIECES + ends[1])

    return make


def backbones() -> list[Irregular]:
    """Archives of backbones, with headers that burst."""
    return [
        Irregular("pax.tar.gz", _tar_with_header(tarfile.XHDTYPE), BURSTING_HEADER),
        Irregular("long-name.tar.gz", _tar_with_header(tarfile.GNUTYPE_LONGNAME), BURSTING_HEADER),
    ]


# files that are none ────────────────────────────────────────────────────────────────────────────────


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))  # a whole path may be too long for a socket


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, SPARSE_BYTES)


def special_files() -> list[Irregular]:
    """Pipes, devices, sockets, links, and a file that claims 20 GB, under the names of images."""
    return [
        Irregular("fifo.jpg", os.mkfifo, NOT_REGULAR),
        Irregular("zero.jpg", lambda path: path.symlink_to("/dev/zero"), NOT_REGULAR),
        Irregular("socket.jpg", _socket, NOT_REGULAR),
        Irregular("sparse.jpg", _sparse, f"{TOO_LARGE}|{NO_IMAGE}"),
        Irregular("dangling.jpg", lambda path: path.symlink_to("nothing"), "No such file or directory"),
        Irregular("itself.jpg", lambda path: path.symlink_to("itself.jpg"), "Too many levels of symbolic links"),
        Irregular("\x1b]0;fifo\x07\n.jpg", os.mkfifo, NOT_REGULAR),
        Irregular("-fifo.jpg", os.mkfifo, NOT_REGULAR),
        Irregular(os.fsdecode(b"fifo-\xfc.jpg"), os.mkfifo, NOT_REGULAR),
    ]


# the folder ─────────────────────────────────────────────────────────────────────────────────────────

# Under each of these names stands a whole image. A name in `dir.jpg/` is in a folder that is named like an image.
ODD_NAMES = (
    *("\x1b[31mred.jpg", "new\nline.jpg", "tab\there.jpg", "\u202egpj.exe.jpg", os.fsdecode(b"latin-\xfc.jpg")),
    *("=cmd|' C calc'!A0.jpg", "@SUM(1).jpg", "+1.jpg", "-rf.jpg", "--help.jpg", "$(reboot).jpg", "dir.jpg/inside.jpg"),
)


def make_folder(folder: Path, irregular: list[Irregular]) -> list[str]:
    """Make the entries in the first class's folder, with good images and endless links beside them.

    Returns the names of the images that must be sorted, below `folder`.
    """
    names = [f"{name}/{number}.jpg" for name in CLASSES for number in range(GOOD_IMAGES)]
    names += [f"{CLASSES[0]}/{name}" for name in ODD_NAMES]
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(picture(160, 120, seed=seed), "JPEG"))
    for entry in irregular:
        entry.make(folder / CLASSES[0] / entry.name)
    _make_endless_links(folder / CLASSES[1] / "links")
    return names


def _make_endless_links(top: Path) -> None:
    """Folders each of which holds two links to the next one, and in the last one a link to the first."""
    folders = [top / f"{level}" for level in range(LINK_LEVELS)]
    for folder in folders:
        folder.mkdir(parents=True)
    for folder, below in itertools.pairwise(folders):
        for link in ("a", "b"):
            (folder / link).symlink_to(Path("..") / below.name)
    (folders[-1] / "again").symlink_to(Path("..") / folders[0].name)
