"""The image fields of a manifest, and the decoder that is made from them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from model_store.bundle.files import parse_manifest
from model_store.bundle.manifest import IMAGES_BY_BITS_KEY, SAMPLE_BITS_KEY, Manifest
from model_store.bundle.preprocessing import decoder_of, sample_bits_warning
from shared.errors import BadBundle, BadImage
from shared.images.crop_regions import ANY_CAMERA, Region
from shared.images.decoding import decode_image
from shared.settings import Settings
from tests.model_store.tiny_bundle import random_images, tiny_manifest

TOP, OTHERS = Region(0.25, 0, 0.75, 1), Region(0, 0.5, 1, 1)
SETTINGS = Settings(max_image_bytes=100_000, max_image_px=10_000)


def manifest(tmp_path: Path, **seen: object) -> Manifest:
    plain = tiny_manifest(tmp_path, name="tiny", version=1, mode="multi", size_px=24)
    return Manifest.model_validate(plain.model_dump() | seen)


def picture(width: int, height: int) -> bytes:
    (pixels,) = random_images(1, size_px=max(width, height))
    stream = io.BytesIO()
    Image.fromarray(pixels[:height, :width]).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("camera", ["top", "side", ANY_CAMERA])
def test_size_fit_and_region_come_from_the_manifest(tmp_path: Path, camera: str) -> None:
    decoder = decoder_of(manifest(tmp_path, fit="pad", regions={"top": TOP, "*": OTHERS}), SETTINGS)
    data, region = picture(80, 50), TOP if camera == "top" else OTHERS
    np.testing.assert_array_equal(decoder(data, camera), decode_image(data, size_px=24, fit="pad", region=region))


def test_a_row_of_a_batch_is_decoded_into(tmp_path: Path) -> None:
    decoder = decoder_of(manifest(tmp_path, fit="pad", regions={"top": TOP, "*": OTHERS}), SETTINGS)
    batch = np.zeros((3, 24, 24, 3), np.uint8)
    for camera in ("top", "side"):
        decoder.decode_into(picture(80, 50), camera, batch[1])
        np.testing.assert_array_equal(batch[1], decoder(picture(80, 50), camera))
    assert not batch[0].any() and not batch[2].any()
    with pytest.raises(ValueError, match=r"uint8 \[24, 24, 3\]"):
        decoder.decode_into(picture(80, 50), "top", np.empty((25, 25, 3), np.uint8))


def test_decoders_that_give_the_same_pixels_are_equal(tmp_path: Path) -> None:
    seen = manifest(tmp_path, regions={"top": TOP})
    assert decoder_of(seen, SETTINGS) == decoder_of(seen.model_copy(), SETTINGS)
    assert hash(decoder_of(seen, SETTINGS)) == hash(decoder_of(seen.model_copy(), SETTINGS))
    for other in ({"regions": {"top": OTHERS}}, {"regions": {}}, {"fit": "pad"}):
        assert decoder_of(seen.model_copy(update=other), SETTINGS) != decoder_of(seen, SETTINGS)


def test_the_limits_come_from_the_settings(tmp_path: Path) -> None:
    decoder = decoder_of(manifest(tmp_path), SETTINGS)
    assert decoder(picture(100, 100), "c1").shape == (24, 24, 3)
    for data, reason in ((picture(101, 100), "too_large_px"), (picture(9, 9) + bytes(100_000), "too_large_bytes")):
        with pytest.raises(BadImage) as caught:
            decoder(data, "c1")
        assert caught.value.reason == reason


def test_a_bundle_of_an_older_release_stretches_the_whole_picture(tmp_path: Path) -> None:
    values = json.loads(manifest(tmp_path).model_dump_json())
    before = {name: value for name, value in values.items() if name not in ("fit", "regions")}
    assert len(before) == len(values) - 2
    read = Manifest.model_validate_json(json.dumps(before))
    assert (read.fit, read.regions) == ("stretch", {})


def test_fit_and_regions_survive_json(tmp_path: Path) -> None:
    written = manifest(tmp_path, fit="pad", regions={"top": Region(1 / 3, 0, 2 / 3, 1), "*": OTHERS})
    assert Manifest.model_validate_json(written.model_dump_json()) == written


@pytest.mark.parametrize(
    "seen",
    [
        {"fit": "crop"},
        {"regions": {"top": {"left": 0.9, "top": 0, "right": 0.1, "bottom": 1}}},
    ],
)
def test_an_unknown_fit_or_an_empty_region_is_refused(tmp_path: Path, seen: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        manifest(tmp_path, **seen)


class RecordedDecoderProcess:
    """Stands in for the process that decodes costly images."""

    def __init__(self) -> None:
        self.options: list[dict[str, object]] = []

    def decode_into(self, data: bytes, out: np.ndarray, **options: object) -> None:
        self.options.append(options)
        out[:] = 7


@pytest.mark.slow
def test_costly_images_are_decoded_in_the_decoder_process_with_the_same_options(tmp_path: Path) -> None:
    process = RecordedDecoderProcess()
    its_manifest = manifest(tmp_path, fit="pad", regions={"top": TOP, "*": OTHERS})
    decoder = decoder_of(its_manifest, Settings(max_decode_s=5), decoder_process=process)  # type: ignore[arg-type]
    assert (decoder(picture(2000, 1500), "top") == 7).all()
    (options,) = process.options
    assert options["region"] == TOP and options["fit"] == "pad" and options["max_decode_s"] == 5
    assert not (decoder(picture(40, 30), "top") == 7).all()
    assert len(process.options) == 1
    assert decoder == decoder_of(its_manifest, Settings(max_decode_s=5)), "both decoders give the same pixels"


def test_whether_an_image_is_costly_depends_on_the_cameras_region(tmp_path: Path) -> None:
    """A JPEG is decoded at full size if only a small part of it is used."""
    stream = io.BytesIO()
    Image.new("RGB", (4000, 3000)).save(stream, "JPEG")
    data = stream.getvalue()
    small, half = Region(0.4, 0.2, 0.5, 0.9), Region(0.2, 0, 0.8, 1)
    decoder = decoder_of(manifest(tmp_path, regions={"small": small, "half": half}), Settings())
    assert [decoder.is_costly(data, camera) for camera in ("small", "half", "whole")] == [True, False, False]


@pytest.mark.slow
def test_without_a_decoder_process_costly_images_are_decoded_in_this_one(tmp_path: Path) -> None:
    assert decoder_of(manifest(tmp_path), Settings())(picture(2000, 1500), "top").shape == (24, 24, 3)
    with pytest.raises(BadImage, match="max_decode_s"):
        decoder_of(manifest(tmp_path), Settings(max_decode_s=0.01))(picture(2000, 1500), "top")


def deep_picture(width: int, height: int) -> bytes:
    """A gray PNG of 12 bits in 16, with no white sample."""
    stream = io.BytesIO()
    Image.fromarray(np.full((height, width), 100 << 4, np.uint16)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("bits", ["12", 12.0, 7, 17, 0, None, True])
def test_a_bundle_whose_sample_bits_are_no_number_of_bits_is_refused(tmp_path: Path, bits: object) -> None:
    values = json.loads(manifest(tmp_path).model_dump_json())
    values["training"]["settings"][SAMPLE_BITS_KEY] = bits
    with pytest.raises(BadBundle, match=r"sample_bits \S+ should be a whole number from 8 to 16"):
        parse_manifest(json.dumps(values).encode(), location="manifest.json")


@pytest.mark.parametrize(
    "images", [3, None, "12", ["12"], {"12": "many"}, {"12": -1}, {"12": True}, {"0": 3}, {"x": 3}]
)
def test_a_bundle_whose_images_by_bits_are_no_table_of_counts_is_refused(tmp_path: Path, images: object) -> None:
    values = json.loads(manifest(tmp_path).model_dump_json())
    values["training"]["settings"][IMAGES_BY_BITS_KEY] = {"8": 0, "16": 3}
    parse_manifest(json.dumps(values).encode(), location="manifest.json")
    values["training"]["settings"][IMAGES_BY_BITS_KEY] = images
    with pytest.raises(
        BadBundle, match=r"images_by_sample_bits .+ should be a table from numbers of bits, 8 to 16, to"
    ):
        parse_manifest(json.dumps(values).encode(), location="manifest.json")


def test_samples_have_the_bits_that_the_model_was_trained_with(tmp_path: Path) -> None:
    plain = manifest(tmp_path)
    settings = plain.training.settings | {SAMPLE_BITS_KEY: 12}
    trained = plain.model_copy(update={"training": plain.training.model_copy(update={"settings": settings})})
    assert (decoder_of(trained, SETTINGS)(deep_picture(30, 20), "top") == 100).all()
    setting = Settings(sample_bits=16)  # wins over the model's
    assert (decoder_of(trained, setting)(deep_picture(30, 20), "top") == 100 >> 4).all()
    assert decoder_of(trained, SETTINGS) != decoder_of(plain, SETTINGS), "their pixels differ"
    with pytest.raises(BadImage, match="only go up to 1,600"):
        decoder_of(plain, SETTINGS)(deep_picture(30, 20), "top")
    process = RecordedDecoderProcess()
    decoder_of(trained, Settings(), decoder_process=process)(deep_picture(3000, 1500), "top")  # type: ignore[arg-type]
    assert process.options[0]["sample_bits"] == 12


def test_a_setting_that_reads_images_unlike_the_training_is_told(tmp_path: Path) -> None:
    plain = manifest(tmp_path)
    settings = plain.training.settings | {IMAGES_BY_BITS_KEY: {"10": 3, "12": 400}}
    trained = plain.model_copy(update={"training": plain.training.model_copy(update={"settings": settings})})
    told = sample_bits_warning(trained, 16)
    assert told is not None
    assert f"sample_bits is 16, but {trained.name}@{trained.version} was trained on images of 10 and 12 bits" in told
    assert [sample_bits_warning(trained, bits) for bits in (0, 10, 12)] == [None] * 3
    assert sample_bits_warning(plain, 16) is None
