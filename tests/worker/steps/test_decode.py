"""From an admitted job to its pixels, or to the reason why it has none."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import redis

from model_store.bundle.preprocessing import decoder_of
from shared import keys
from shared.errors import BadImage
from shared.images.crop_regions import Fit, Region
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import SIZE_PX, frame, halves, picture
from tests.worker.step_inputs import admitted
from worker.models.model import Model
from worker.steps.decode import check_digest, decode

LIMITS = Settings(max_image_bytes=10_000, max_image_px=90_000)


LEFT, RIGHT = Region(0, 0, 0.5, 1), Region(0.5, 0, 1, 1)


def sized(
    size_px: int = SIZE_PX, *, version: int = 3, fit: Fit = "stretch", regions: dict[str, Region] | None = None
) -> Model:
    model = kit.model(version=version, size_px=size_px)
    manifest = model.manifest.model_copy(update={"fit": fit, "regions": regions or {}})
    return replace(model, manifest=manifest, decoder=decoder_of(manifest, LIMITS))


@pytest.fixture
def model() -> Model:
    return sized()


def test_the_pixels_have_the_models_size_and_the_images_colors(model: Model) -> None:
    item = decode(admitted(), picture(10, 20, blue=30, size_px=100), model)
    assert item.slot.pixels.shape == (SIZE_PX, SIZE_PX, 3)
    assert item.slot.pixels.dtype.name == "uint8"
    assert (item.slot.pixels == (10, 20, 30)).all()
    assert item.decode_ms > 0
    assert item.admitted.job.job_id == "j1"
    assert item.slot.index is not None, "the pixels are not in the batch buffer"


def test_an_image_that_is_gone(model: Model) -> None:
    with pytest.raises(BadImage, match="image_ttl_s") as caught:
        decode(admitted(), None, model)
    assert caught.value.reason == "gone"


def test_the_slot_of_an_image_that_fails_is_given_back(model: Model) -> None:
    for _ in range(20):
        with pytest.raises(BadImage):
            decode(admitted(), kit.broken_picture(), model)
    assert decode(admitted(), picture(10), model).slot.index is not None


@pytest.mark.parametrize(
    "data", [b"", b"not an image", kit.broken_picture(), picture(size_px=301), picture() + bytes(10_000)]
)
def test_unusable_images_are_rejected_by_the_workers_own_limits(model: Model, data: bytes) -> None:
    with pytest.raises(BadImage):
        decode(admitted(), data, model)


def test_the_jobs_camera_decides_which_region_is_decoded() -> None:
    model = sized(regions={"left": LEFT, "*": RIGHT})
    for camera, color in (("left", (255, 0, 0)), ("c1", (0, 255, 0))):
        assert (decode(admitted(camera=camera), halves(), model).slot.pixels == color).all()


def test_decoders_that_give_the_same_pixels_are_equal() -> None:
    assert sized(regions={"a": LEFT, "b": RIGHT}).decoder == sized(regions={"b": RIGHT, "a": LEFT}, version=4).decoder
    assert hash(sized(regions={"a": LEFT}).decoder) == hash(sized(regions={"a": LEFT}).decoder)
    different = [sized(), sized(fit="pad"), sized(regions={"a": LEFT}), sized(regions={"b": LEFT}), sized(48)]
    assert len({model.decoder for model in different}) == len(different)


def test_a_file_with_the_jobs_digest_is_the_one_that_was_sent() -> None:
    assert check_digest(b"file", sha256=hashlib.sha256(b"file").hexdigest()) == hashlib.sha256(b"file").digest()


def test_another_file_is_rejected_and_its_message_names_both_digests() -> None:
    with pytest.raises(BadImage, match=r"SHA-256 is 3b9c358f.*the job says 0000.*send it again") as caught:
        check_digest(b"file", sha256="0" * 64)
    assert caught.value.reason == "damaged"


def test_a_file_that_was_replaced_on_the_server_is_not_sorted(settings: Settings, client: redis.Redis) -> None:
    replaced, good = kit.submit(settings, frame(picture(10)), frame(picture(10)))
    client.set(keys.image(replaced), picture(250))
    kit.run_burst(settings)
    assert kit.outcomes(client) == {replaced: "rejected", good: "sorted"}
    (error,) = [result.error for result in kit.stream(client) if result.job_id == replaced]
    assert error is not None and "not the file that was sent" in error
