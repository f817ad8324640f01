"""Each version is tried before it is published or promoted; a publisher that ran its SavedModel leaves that out."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store.bundle.files import Bundle
from model_store.registry.store import ModelStore
from shared.errors import BadBundle, NotFound
from tests.model_store.tiny_bundle import copy_build


def test_what_is_tried_when_a_version_is_published_and_promoted(tmp_path: Path, tiny_bundle: Path) -> None:
    tried: list[tuple[int, bool]] = []

    def try_loading(bundle: Bundle, *, litert_only: bool) -> None:
        tried.append((bundle.manifest.version, litert_only))

    store = ModelStore(tmp_path, try_loading=try_loading)
    store.publish("tiny", copy_build(tiny_bundle))
    store.publish("tiny", copy_build(tiny_bundle), litert_only=True)
    store.promote("tiny", 1)
    assert tried == [(1, False), (2, True), (1, True)]


@pytest.mark.parametrize("litert_only", [False, True])
def test_a_version_that_is_refused_leaves_nothing(tmp_path: Path, tiny_bundle: Path, litert_only: bool) -> None:
    def refuse(bundle: Bundle, *, litert_only: bool) -> None:
        raise BadBundle("it crashes")

    store = ModelStore(tmp_path, try_loading=refuse)
    with pytest.raises(BadBundle, match="it crashes"):
        store.publish("tiny", copy_build(tiny_bundle), litert_only=litert_only)
    with pytest.raises(NotFound):
        store.current("tiny")
    assert store.versions("tiny") == []
