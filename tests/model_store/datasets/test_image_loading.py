"""Decoding samples into pixels: with their camera's region, and into a file if they are too many for memory."""

from __future__ import annotations

import gc
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from model_store.datasets import image_loading
from model_store.datasets.dataset import Dataset, load_dataset
from model_store.datasets.image_loading import DecodedSamples, DecodeSettings, decode_samples
from shared.errors import BadSetting
from shared.images.crop_regions import Region
from shared.images.decoding import decode_image
from shared.settings import Settings
from tests.model_store.tiny_backbone import SIZE_PX, write_labeled

ROWS = {"a.png": "good", "b.png": "no cap|pigmented", "c.png": "pigmented", "d.png": "no cap"}
LEFT, RIGHT = Region(0, 0, 0.5, 1), Region(0.5, 0, 1, 1)


def decode(
    dataset: Dataset, *, scratch: Path | None = None, regions: dict[str, Region] | None = None
) -> DecodedSamples:
    return decode_samples(
        dataset.files,
        dataset.samples,
        size_px=SIZE_PX,
        decode_settings=DecodeSettings(),
        on_progress=lambda _: None,
        scratch=scratch,
        regions=regions,
    )


def with_cameras(folder: Path) -> Dataset:
    write_labeled(folder, ROWS)
    cameras = {"a.png": "top", "b.png": "side", "c.png": "", "d.png": "side"}
    lines = [f"{name},{labels},{cameras[name]}" for name, labels in ROWS.items()]
    (folder / "labels.csv").write_text("\n".join(["filename,labels,camera", *lines]))
    return load_dataset(folder)


def test_decoding_uses_one_thread_for_each_usable_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_labeled(tmp_path, ROWS)
    asked: list[int] = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, threads: int) -> None:
            asked.append(threads)
            super().__init__(threads)

    monkeypatch.setattr(image_loading, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(image_loading, "usable_cores", lambda: 3)
    assert len(decode(load_dataset(tmp_path)).images) == len(ROWS)
    assert asked == [3]


@pytest.mark.parametrize(
    ("regions", "expected"),
    [
        (None, [None] * 4),
        ({}, [None] * 4),
        ({"side": LEFT}, [None, LEFT, None, LEFT]),
        ({"side": LEFT, "*": RIGHT}, [RIGHT, LEFT, RIGHT, LEFT]),
        ({"elsewhere": LEFT}, [None] * 4),
    ],
)
def test_each_camera_has_its_region(
    tmp_path: Path, regions: dict[str, Region] | None, expected: list[Region | None]
) -> None:
    pictures = decode(with_cameras(tmp_path), regions=regions)
    for name, region, image in zip(ROWS, expected, pictures.images, strict=True):
        data = (tmp_path / name).read_bytes()
        np.testing.assert_array_equal(image, decode_image(data, size_px=SIZE_PX, region=region))


def test_pictures_are_padded_if_the_model_wants_it(tmp_path: Path) -> None:
    dataset = with_cameras(tmp_path)
    pictures = decode_samples(
        dataset.files,
        dataset.samples,
        size_px=SIZE_PX,
        decode_settings=DecodeSettings(),
        on_progress=lambda _: None,
        fit="pad",
        regions={"side": LEFT},
    )
    for name, region, image in zip(ROWS, [None, LEFT, None, LEFT], pictures.images, strict=True):
        data = (tmp_path / name).read_bytes()
        np.testing.assert_array_equal(image, decode_image(data, size_px=SIZE_PX, region=region, fit="pad"))
    assert not np.array_equal(pictures.images, decode(dataset, regions={"side": LEFT}).images)


def test_images_larger_than_the_limits_are_unreadable(tmp_path: Path) -> None:
    dataset = load_dataset(write_labeled(tmp_path, ROWS))
    sizes = {name: (tmp_path / name).stat().st_size for name in ROWS}
    largest = max(sizes, key=sizes.__getitem__)
    cases = [
        (DecodeSettings(max_bytes=sizes[largest] - 1), [largest]),
        (DecodeSettings(max_px=SIZE_PX**2 - 1), list(ROWS)),
    ]
    for decode_settings, unreadable in [*cases, (DecodeSettings(sizes[largest], SIZE_PX**2), [])]:
        pictures = decode_samples(
            dataset.files, dataset.samples, size_px=SIZE_PX, decode_settings=decode_settings, on_progress=lambda _: None
        )
        assert [one.name for one in pictures.unreadable] == unreadable
    settings = Settings(max_image_bytes=7, max_image_px=9, max_decode_bytes=11, max_decode_s=13, sample_bits=12)
    assert DecodeSettings.of(settings) == (7, 9, 11, 13, 12)


def test_the_camera_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    plain = decode(load_dataset(write_labeled(tmp_path / "plain", ROWS))).fingerprint
    named = decode(with_cameras(tmp_path / "named")).fingerprint
    assert plain != named


def in_files(folder: Path) -> int:
    """How many deleted files of the folder this process still has mapped."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return sum(str(folder) in line and line.endswith("(deleted)") for line in maps)


def test_many_images_are_kept_in_a_file_that_disappears_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load_dataset(write_labeled(tmp_path / "set", ROWS))
    (tmp_path / "set" / "b.png").write_bytes(b"no image at all")
    expected = decode(dataset)
    scratch = tmp_path / "cache" / "images"
    assert in_files(scratch) == 0
    decode(dataset, scratch=scratch)
    assert not scratch.exists()  # few images stay in memory
    monkeypatch.setattr(image_loading, "MEMORY_BYTES", len(ROWS) * SIZE_PX * SIZE_PX * 3 - 1)
    pictures = decode(dataset, scratch=scratch)
    assert in_files(scratch) == 1
    assert list(scratch.iterdir()) == []
    np.testing.assert_array_equal(pictures.images, expected.images)
    assert (pictures.samples, pictures.digests) == (expected.samples, expected.digests)
    assert len(pictures.images) == 3
    part = pictures.images[1:]
    del pictures
    gc.collect()
    np.testing.assert_array_equal(part, expected.images[1:])
    del part
    gc.collect()
    assert in_files(scratch) == 0


def test_a_full_disk_is_reported_before_the_first_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = load_dataset(write_labeled(tmp_path / "set", ROWS))
    monkeypatch.setattr(image_loading, "MEMORY_BYTES", 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, hard))  # for the program this is like a full disk
    try:
        with pytest.raises(BadSetting, match=r"4 decoded images need 0\.0 GB in .*cache: File too large") as caught:
            decode(dataset, scratch=tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "--cache-dir" in str(caught.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadSetting, match="File exists"):
        decode(dataset, scratch=tmp_path / "file")


def test_without_samples_there_are_no_images(tmp_path: Path) -> None:
    dataset = load_dataset(write_labeled(tmp_path, ROWS))
    assert decode(dataset.with_samples([]), scratch=tmp_path).images.shape == (0, SIZE_PX, SIZE_PX, 3)
