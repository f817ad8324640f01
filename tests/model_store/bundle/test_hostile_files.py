"""Files that somebody else made are refused before they take memory, time, or a look outside their folder."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from model_store.bundle import file_reading, files
from model_store.bundle.file_reading import MAX_SMALL_FILE_BYTES, open_bundle_file
from model_store.bundle.files import file_digests, open_bundle, read_manifest
from model_store.bundle.manifest import INT8_FILE, MANIFEST_FILE
from model_store.registry.reader import parse_spec
from model_store.registry.store import ModelStore, copy_bundle
from shared import regular_files
from shared.errors import BadBundle, BadSetting


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's address may have 107 characters
        try:
            listener.bind(path.name)
        finally:
            os.chdir(here)


SPECIAL: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "socket": make_socket,
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "link to a file": lambda path: path.symlink_to("/etc/passwd"),
    "link to nothing": lambda path: path.symlink_to("/nowhere"),
}


@pytest.mark.parametrize("name", [INT8_FILE, MANIFEST_FILE])
@pytest.mark.parametrize("make", SPECIAL.values(), ids=SPECIAL)
def test_a_file_that_is_not_a_regular_one_is_refused_at_once(
    copied: Path, make: Callable[[Path], object], name: str
) -> None:
    build = copy_bundle(copied, "tiny")
    (copied / name).unlink()
    make(copied / name)
    with pytest.raises(BadBundle, match=name):
        open_bundle(copied)
    with pytest.raises(BadBundle, match="regular file"):
        open_bundle_file(copied / name)
    if name == INT8_FILE:  # it was swapped after the check
        (copied.parent / "staging").mkdir()
        with pytest.raises(BadBundle, match="regular file"):
            build(copied.parent / "staging", 1)


@pytest.mark.parametrize("name", ["link", "pipe"])
def test_a_file_that_is_replaced_after_it_was_looked_at_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "regular").touch()
    looked = os.stat(tmp_path / "regular")
    (tmp_path / "link").symlink_to("regular")
    os.mkfifo(tmp_path / "pipe")
    with monkeypatch.context() as patch:
        patch.setattr(regular_files.os, "stat", lambda *_, **__: looked)
        with pytest.raises(BadBundle, match="neither a regular file"):
            open_bundle_file(tmp_path / name)


def test_a_sparse_or_endless_manifest_is_not_read(copied: Path) -> None:
    with (copied / MANIFEST_FILE).open("ab") as file:
        file.truncate(1 << 40)
    with pytest.raises(BadBundle, match=f"more than {MAX_SMALL_FILE_BYTES:,} bytes"):
        read_manifest(copied)


def test_a_manifest_that_is_nested_too_deeply_is_refused(copied: Path) -> None:
    text = (copied / MANIFEST_FILE).read_text()
    assert '"metrics": {' in text
    deep = "[" * 100_000 + "]" * 100_000
    (copied / MANIFEST_FILE).write_text(text.replace('"metrics": {', f'"metrics": {{"deep": {deep}', 1))
    with pytest.raises(BadBundle, match="not a manifest of this release"):
        read_manifest(copied)


@pytest.mark.parametrize(
    ("before", "after"),
    [('"input_size_px": 32', '"input_size_px": 1000000000'), ('"input_size_px": 32', '"input_size_px": 4097')],
)
def test_a_manifest_that_claims_huge_images_is_refused(copied: Path, before: str, after: str) -> None:
    text = (copied / MANIFEST_FILE).read_text()
    assert before in text
    (copied / MANIFEST_FILE).write_text(text.replace(before, after))
    with pytest.raises(BadBundle, match="input_size_px"):
        read_manifest(copied)


def test_a_sparse_model_is_not_read_to_its_end(copied: Path) -> None:
    with (copied / INT8_FILE).open("ab") as file:
        file.truncate(files.MAX_BYTES + 1)
    with pytest.raises(BadBundle, match=rf"more than 20,000,000,000 bytes, at {INT8_FILE}"):
        open_bundle(copied)


def test_too_many_files_are_not_listed_to_the_end(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_ENTRIES", len(list(copied.rglob("*"))))
    open_bundle(copied)
    (copied / "one more").mkdir()
    with pytest.raises(BadBundle, match="files and folders"):
        open_bundle(copied)


def test_a_link_to_a_folder_is_not_entered(copied: Path) -> None:
    (copied / "saved_model" / "again").symlink_to(copied, target_is_directory=True)
    with pytest.raises(BadBundle, match="again is neither a regular file nor a folder"):
        file_digests(copied)


@pytest.mark.parametrize("file", ["current", "canary.json"])
def test_small_files_of_the_store_are_regular_and_bounded(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    store = ModelStore(tmp_path)
    store.publish("tiny", copy_bundle(tiny_bundle, "tiny"))
    read = store.pointer if file == "current" else store.canary
    path = tmp_path / "tiny" / file
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(BadBundle, match="neither a regular file"):
        read("tiny")
    path.unlink()
    path.write_bytes(b"1" * 5000)  # Python refuses to convert so many digits
    with pytest.raises(BadBundle, match=file):
        read("tiny")
    monkeypatch.setattr(file_reading, "MAX_SMALL_FILE_BYTES", 4999)
    with pytest.raises(BadBundle, match="more than 4,999 bytes"):
        read("tiny")
    if file == "canary.json":
        assert store.clear_canary("tiny")
        assert store.canary("tiny") is None


def test_a_version_of_thousands_of_digits_is_refused() -> None:
    with pytest.raises(BadSetting, match="should be NAME or NAME@VERSION"):
        parse_spec(f"tiny@{'1' * 5000}")
