"""A backbone's credentials: used for the download and the cache's key, never shown or recorded."""

from __future__ import annotations

import pytest

from model_store.backbones.handles import split_options
from model_store.backbones.sources import source_of
from shared.errors import BadSetting


def test_the_recorded_handle_has_no_credentials() -> None:
    source = source_of("https://u:hunter2@site.example/m?token=hunter3#size=192")
    assert source.handle == "https://u:***@site.example/m?token=***#size=192"
    assert "hunter3" in source.identity  # another token may serve another module
    assert source.options.size_px == 192


def test_a_handle_without_secrets_is_recorded_as_it_is() -> None:
    handle = "https://tfhub.dev/x/feature_vector/4?tf-hub-format=compressed#scaling=-1..1"
    assert source_of(handle).handle == source_of(handle).identity == handle


@pytest.mark.parametrize("options", ["#size=huge", "#scaling=wide", "#nonsense=1"])
def test_refused_options_show_no_credentials(options: str) -> None:
    with pytest.raises(BadSetting, match="backbone") as caught:
        split_options(f"https://u:hunter2@site.example/m?token=hunter3{options}")
    assert "hunter" not in str(caught.value)
