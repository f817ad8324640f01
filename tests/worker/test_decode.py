"""From a ticket to pixels, or the reason why not."""

from __future__ import annotations

import pytest

from shared.errors import BadImage
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import SIZE_PX, picture, ticket
from worker.decode import Decoder, decode_ticket, image_decoder


@pytest.fixture
def decoder() -> Decoder:
    return image_decoder(Settings(max_image_bytes=10_000, max_image_px=90_000), size_px=SIZE_PX)


def test_the_models_size_and_colours(decoder: Decoder) -> None:
    item = decode_ticket(ticket(image=picture(10, 20, blue=30, size_px=100)), decoder)
    assert item.pixels.shape == (SIZE_PX, SIZE_PX, 3)
    assert item.pixels.dtype.name == "uint8"
    assert (item.pixels == (10, 20, 30)).all()
    assert item.decode_ms > 0
    assert item.ticket.job.job_id == "j1"
    assert item.ticket.claimed.image is None, "the file's bytes are held on to"


def test_an_image_that_is_gone(decoder: Decoder) -> None:
    with pytest.raises(BadImage, match="image_ttl_s") as caught:
        decode_ticket(ticket(image=None), decoder)
    assert caught.value.reason == "gone"


@pytest.mark.parametrize(
    "data", [b"", b"not an image", kit.broken_picture(), picture(size_px=301), picture() + bytes(10_000)]
)
def test_what_can_not_be_used_is_rejected_by_the_workers_own_limits(decoder: Decoder, data: bytes) -> None:
    with pytest.raises(BadImage):
        decode_ticket(ticket(image=data), decoder)
