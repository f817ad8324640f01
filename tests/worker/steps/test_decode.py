"""From an admitted job to its pixels, or to the reason why it has none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from model_store.bundle.preprocessing import decoder_of
from model_store.registry.canary import Canary
from shared.errors import BadImage
from shared.images.crop_regions import Fit, Region
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import SIZE_PX, admitted, halves, picture
from worker.models.model import Model
from worker.models.routing import ActiveCanary, Route
from worker.steps.decode import decode, decode_for_comparison

LIMITS = Settings(max_image_bytes=10_000, max_image_px=90_000)


LEFT, RIGHT = Region(0, 0, 0.5, 1), Region(0.5, 0, 1, 1)


def sized(
    size_px: int = SIZE_PX, *, version: int = 3, fit: Fit = "stretch", regions: dict[str, Region] | None = None
) -> Model:
    model = kit.model(version=version, size_px=size_px)
    manifest = model.manifest.model_copy(update={"fit": fit, "regions": regions or {}})
    return replace(model, manifest=manifest, decoder=decoder_of(manifest, LIMITS))


@pytest.fixture
def route() -> Route:
    return Route(sized())


def test_the_models_size_and_colours(route: Route) -> None:
    item = decode(admitted(), picture(10, 20, blue=30, size_px=100), route)
    assert item.slot.pixels.shape == (SIZE_PX, SIZE_PX, 3)
    assert item.slot.pixels.dtype.name == "uint8"
    assert (item.slot.pixels == (10, 20, 30)).all()
    assert item.decode_ms > 0
    assert item.admitted.job.job_id == "j1"
    assert item.slot.index is not None, "not in the batch buffer"


def test_an_image_that_is_gone(route: Route) -> None:
    with pytest.raises(BadImage, match="image_ttl_s") as caught:
        decode(admitted(), None, route)
    assert caught.value.reason == "gone"


def test_a_slot_that_was_taken_in_vain_is_given_back(route: Route) -> None:
    for _ in range(20):
        with pytest.raises(BadImage):
            decode(admitted(), kit.broken_picture(), route)
    assert decode(admitted(), picture(10), route).slot.index is not None


def test_the_pixels_of_a_comparison_are_not_in_the_pixel_buffer() -> None:
    tried = active_canary(SIZE_PX, shadow=True)
    item = decode(admitted(), picture(10), Route(sized(), other=tried.model, canary=tried))
    assert item.slot.index is None


@pytest.mark.parametrize(
    "data", [b"", b"not an image", kit.broken_picture(), picture(size_px=301), picture() + bytes(10_000)]
)
def test_what_can_not_be_used_is_rejected_by_the_workers_own_limits(route: Route, data: bytes) -> None:
    with pytest.raises(BadImage):
        decode(admitted(), data, route)


# for two models ─────────────────────────────────────────────────────────────────────────────────────


def active_canary(size_px: int, *, shadow: bool) -> ActiveCanary:
    return ActiveCanary(Canary(version=4, share=1.0, shadow=shadow), sized(size_px, version=4))


@pytest.mark.parametrize("shadow", [True, False])
def test_models_of_one_size_share_the_pixels(shadow: bool) -> None:
    tried = active_canary(SIZE_PX, shadow=shadow)
    item = decode(admitted(), picture(10), Route(sized(), other=tried.model, canary=tried))
    assert item.comparison is not None and item.comparison.pixels is item.slot.pixels


def test_a_shadow_of_another_size_is_decoded_for_after_the_job_went_on() -> None:
    tried, data = active_canary(48, shadow=True), picture(10, 20, size_px=100)
    item = decode(admitted(), data, Route(sized(), other=tried.model, canary=tried))
    assert item.comparison is not None and item.comparison.pixels is None
    assert item.slot.pixels.shape == (SIZE_PX, SIZE_PX, 3)
    decode_for_comparison(item.comparison, data, camera="c1")
    assert item.comparison.pixels is not None and item.comparison.pixels.shape == (48, 48, 3)
    assert (item.comparison.pixels == (10, 20, 0)).all()


def test_where_a_canary_acts_the_other_model_could_step_in() -> None:
    tried = active_canary(48, shadow=False)
    item = decode(admitted(), picture(10, size_px=100), Route(tried.model, other=sized(), canary=tried))
    assert item.by_canary
    assert item.slot.pixels.shape == (48, 48, 3)
    assert item.comparison is not None and item.comparison.pixels is not None
    assert item.comparison.pixels.shape == (SIZE_PX, SIZE_PX, 3)


def test_a_second_decoding_that_fails_is_nobodys_problem() -> None:
    tried, data = active_canary(48, shadow=True), picture(10)
    item = decode(admitted(), data, Route(sized(), other=tried.model, canary=tried))
    assert item.comparison is not None
    decode_for_comparison(item.comparison, kit.broken_picture(), camera="c1")
    assert item.comparison.pixels is None


def test_the_jobs_camera_says_which_part_is_seen() -> None:
    route = Route(sized(regions={"left": LEFT, "*": RIGHT}))
    for camera, color in (("left", (255, 0, 0)), ("c1", (0, 255, 0))):
        assert (decode(admitted(camera=camera), halves(), route).slot.pixels == color).all()


@pytest.mark.parametrize("shadow", [True, False])
def test_models_of_one_size_with_other_regions_do_not_share_the_pixels(shadow: bool) -> None:
    other = sized(version=4, regions={"left": RIGHT})
    tried = ActiveCanary(Canary(version=4, share=1.0, shadow=shadow), other)
    item = decode(admitted(camera="left"), halves(), Route(sized(regions={"left": LEFT}), other=other, canary=tried))
    assert item.comparison is not None
    if shadow:
        assert item.comparison.pixels is None
        decode_for_comparison(item.comparison, halves(), camera="left")
    assert item.comparison.pixels is not None
    assert (item.slot.pixels == (255, 0, 0)).all() and (item.comparison.pixels == (0, 255, 0)).all()


def test_decoders_are_equal_when_their_pixels_are() -> None:
    assert sized(regions={"a": LEFT, "b": RIGHT}).decoder == sized(regions={"b": RIGHT, "a": LEFT}, version=4).decoder
    assert hash(sized(regions={"a": LEFT}).decoder) == hash(sized(regions={"a": LEFT}).decoder)
    different = [sized(), sized(fit="pad"), sized(regions={"a": LEFT}), sized(regions={"b": LEFT}), sized(48)]
    assert len({model.decoder for model in different}) == len(different)
