"""Publishing is all or nothing, for readers and for other writers; `test_interrupted` is about kill -9."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from model_store.bundle.files import open_bundle
from model_store.bundle.manifest import GOLDEN_FILE, INT8_FILE, MANIFEST_FILE
from model_store.registry.store import ModelStore, copy_bundle, open_store, parse_spec
from shared.errors import BadBundle, BadSetting, NotFound, StoreUnavailable
from shared.settings import Settings
from tests.kit import ASCII_LOCALE, run_python, wait_until
from tests.model_store.tiny_bundle import copy_build


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def hidden(store: ModelStore) -> list[str]:
    return sorted(path.name for path in (store.root / "tiny").iterdir() if path.name.startswith(".staging"))


def test_a_store_that_does_not_exist_is_empty(store: ModelStore) -> None:
    assert store.names() == []
    assert store.versions("tiny") == []
    with pytest.raises(NotFound, match=r"it is empty\. Train one with `sortline train`"):
        store.resolve("tiny")


def test_publish_counts_up_and_moves_current(store: ModelStore, tiny_bundle: Path) -> None:
    first = store.publish("tiny", copy_build(tiny_bundle))
    second = store.publish("tiny", copy_build(tiny_bundle))
    store.publish("other", copy_build(tiny_bundle, name="other"))
    assert [first.name, second.name] == ["000001", "000002"]
    assert store.names() == ["other", "tiny"]
    assert store.versions("tiny") == [1, 2]
    assert store.current("tiny") == 2
    assert store.resolve("tiny") == second
    assert store.resolve("tiny@1") == first
    assert open_bundle(second).manifest.version == 2


def test_not_found_lists_the_existing_versions(store: ModelStore, tiny_bundle: Path) -> None:
    store.publish("tiny", copy_build(tiny_bundle))
    for spec in ("tiny@7", "bottles"):
        with pytest.raises(NotFound, match=r"tiny@1.*sortline train"):
            store.resolve(spec)


def test_of_many_versions_the_newest_are_listed(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelStore, "names", lambda _: ["tiny"])
    monkeypatch.setattr(ModelStore, "versions", lambda *_: list(range(1, 201)))
    told = store.not_found_message("model tiny@300 does not exist")
    assert "it has tiny@200, tiny@199, tiny@198, " in told
    assert "tiny@191 and 190 more (see `sortline models list`). Name one of them" in told
    assert "tiny@190" not in told


@pytest.mark.parametrize(
    "spec", ["", "@1", "tiny@", "tiny@x", "tiny@0", "tiny@-1", "tiny@²", "../tiny", "a/b", ".lock"]
)
def test_a_spec_that_names_no_model_is_a_bad_setting(store: ModelStore, spec: str) -> None:
    with pytest.raises(BadSetting, match="NAME@VERSION"):
        store.resolve(spec)


def test_parse_spec() -> None:
    assert parse_spec("bottles") == ("bottles", None)
    assert parse_spec("pet-1.5@12") == ("pet-1.5", 12)


def test_a_name_that_leads_elsewhere_is_not_published(store: ModelStore, tiny_bundle: Path) -> None:
    with pytest.raises(BadSetting, match=r"\.\./evil"):
        store.publish("../evil", copy_build(tiny_bundle))
    assert not (store.root.parent / "evil").exists()


def test_nothing_is_visible_while_a_bundle_is_being_made(store: ModelStore, tiny_bundle: Path) -> None:
    store.publish("tiny", copy_build(tiny_bundle))

    def build(folder: Path, version: int) -> None:
        assert version == 2
        assert list(folder.iterdir()) == []
        copy_build(tiny_bundle)(folder, version)
        assert store.versions("tiny") == [1]
        assert store.current("tiny") == 1

    store.publish("tiny", build)
    assert store.current("tiny") == 2


def test_a_build_that_fails_leaves_nothing(store: ModelStore, tiny_bundle: Path) -> None:
    store.publish("tiny", copy_build(tiny_bundle))

    def build(folder: Path, version: int) -> None:
        copy_build(tiny_bundle)(folder, version)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        store.publish("tiny", build)
    assert (store.versions("tiny"), store.current("tiny"), hidden(store)) == ([1], 1, [])


def test_only_a_bundle_of_that_name_and_version_is_published(store: ModelStore, tiny_bundle: Path) -> None:
    def without_golden(folder: Path, version: int) -> None:
        copy_build(tiny_bundle)(folder, version)
        (folder / GOLDEN_FILE).unlink()

    with pytest.raises(BadBundle, match=GOLDEN_FILE):
        store.publish("tiny", without_golden)
    with pytest.raises(BadBundle, match="other@1, but tiny@1"):
        store.publish("tiny", copy_build(tiny_bundle, name="other"))
    with pytest.raises(BadBundle, match=MANIFEST_FILE):
        store.publish("tiny", lambda folder, version: None)
    assert store.names() == []
    assert hidden(store) == []


def test_a_half_copied_bundle_is_invisible_and_its_number_is_not_used(store: ModelStore, tiny_bundle: Path) -> None:
    store.publish("tiny", copy_build(tiny_bundle))
    half = store.root / "tiny" / "000002"
    copy_build(tiny_bundle)(half, 2)
    assert store.versions("tiny") == [1, 2]
    (half / GOLDEN_FILE).unlink()
    assert store.versions("tiny") == [1]
    assert list(store.version_numbers("tiny")) == [1, 2]
    with pytest.raises(NotFound, match="incomplete"):
        store.resolve("tiny@2")
    (half / MANIFEST_FILE).unlink()
    assert store.versions("tiny") == [1]
    assert store.publish("tiny", copy_build(tiny_bundle)).name == "000003"


def test_a_bundle_under_a_foreign_number_is_invisible(store: ModelStore, tiny_bundle: Path) -> None:
    store.publish("tiny", copy_build(tiny_bundle))
    shutil.copytree(store.resolve("tiny@1"), store.root / "tiny" / "000009")
    assert store.versions("tiny") == [1]


def test_the_number_of_a_deleted_version_is_not_used_again(store: ModelStore, tiny_bundle: Path) -> None:
    for _ in range(2):
        store.publish("tiny", copy_build(tiny_bundle))
    shutil.rmtree(store.resolve("tiny@2"))
    with pytest.raises(NotFound, match=r"tiny@2.*it has tiny@1"):
        store.resolve("tiny")
    assert store.publish("tiny", copy_build(tiny_bundle)).name == "000003"


def test_a_broken_pointer_says_where_it_is(store: ModelStore, tiny_bundle: Path) -> None:
    store.publish("tiny", copy_build(tiny_bundle))
    (store.root / "tiny" / "current").write_text("newest")
    with pytest.raises(BadBundle, match=r"tiny/current holds 'newest'"):
        store.resolve("tiny")


def test_the_pointer_is_replaced_and_never_written_in_place(store: ModelStore, tiny_bundle: Path) -> None:
    store.publish("tiny", copy_build(tiny_bundle))
    # A reader that has the file open keeps the old content, so that nobody ever reads half of the new content.
    with (store.root / "tiny" / "current").open() as opened_before:
        store.publish("tiny", copy_build(tiny_bundle))
        assert opened_before.read() == "1\n"


def test_writers_wait_for_each_other(store: ModelStore, tiny_bundle: Path) -> None:
    building = threading.Semaphore(1)
    collisions: list[int] = []

    def build(folder: Path, version: int) -> None:
        if not building.acquire(blocking=False):
            collisions.append(version)
            return
        copy_build(tiny_bundle)(folder, version)
        building.release()

    threads = [threading.Thread(target=store.publish, args=("tiny", build)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert collisions == []
    assert store.versions("tiny") == [1, 2, 3, 4, 5, 6]
    assert store.current("tiny") == 6


def test_waiting_for_another_writer_is_logged_once(store: ModelStore, caplog: pytest.LogCaptureFixture) -> None:
    written = threading.Event()

    def write() -> None:
        with store.storage.writing("tiny"):
            written.set()

    waiting = threading.Thread(target=write)
    with store.storage.writing("tiny"):
        assert caplog.messages == []
        waiting.start()
        wait_until(lambda: caplog.messages, "the wait is logged")
        assert not written.is_set()
    waiting.join()
    assert written.is_set()
    (message,) = caplog.messages
    assert f"process {os.getpid()} waits for another writer, which holds {store.root / 'tiny' / '.lock'}" in message


def test_the_manifest_names_the_parent(store: ModelStore, tiny_bundle: Path) -> None:
    for promote in (True, False, True):
        store.publish("tiny", copy_build(tiny_bundle), promote=promote)
    manifests = [open_bundle(store.resolve(f"tiny@{version}")).manifest for version in (1, 2, 3)]
    assert [manifest.parent for manifest in manifests] == [None, 1, 1]


def test_a_version_published_without_promotion_is_not_current(store: ModelStore, tiny_bundle: Path) -> None:
    store.publish("tiny", copy_build(tiny_bundle), promote=False)
    assert (store.versions("tiny"), store.pointer("tiny")) == ([1], None)
    with pytest.raises(NotFound, match=r"no current version.*it has tiny@1"):
        store.resolve("tiny")
    store.publish("tiny", copy_build(tiny_bundle))
    store.publish("tiny", copy_build(tiny_bundle), promote=False)
    assert (store.versions("tiny"), store.pointer("tiny")) == ([1, 2, 3], 2)


def test_a_bundle_from_another_store_gets_a_new_name_and_number(
    store: ModelStore, tiny_bundle: Path, tmp_path: Path
) -> None:
    elsewhere = ModelStore(tmp_path / "elsewhere")
    for _ in range(3):
        elsewhere.publish("tiny", copy_build(tiny_bundle))
    source = elsewhere.resolve("tiny@3")
    (source / INT8_FILE).chmod(0o600)
    copied = store.publish("bottles", copy_bundle(source, "bottles"))
    before, after = (open_bundle(path).manifest for path in (source, copied))
    assert (after.name, after.version, after.parent) == ("bottles", 1, None)
    assert after == before.model_copy(update={"name": "bottles", "version": 1, "parent": None})
    assert (copied / INT8_FILE).stat().st_mode & 0o044  # workers of other users can read it
    (source / INT8_FILE).write_bytes(b"?")
    with pytest.raises(BadBundle, match=INT8_FILE):
        copy_bundle(source, "bottles")


def test_a_source_that_disappears_during_the_copy_is_not_the_stores_error(
    store: ModelStore, tiny_bundle: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(tiny_bundle, tmp_path / "stick")
    build = copy_bundle(source, "bottles")
    (source / INT8_FILE).unlink()
    with pytest.raises(BadBundle, match=f"stick/{INT8_FILE}, which is to be published, can't be read: No such file"):
        store.publish("bottles", build)
    assert store.version_numbers("bottles") == []


def test_a_full_disk_during_the_copy_is_the_stores_error(
    store: ModelStore, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = copy_bundle(tiny_bundle, "bottles")
    opened = Path.open

    def full(path: Path, mode: str = "r", *arguments: Any) -> Any:
        if mode == "wb" and path.name == INT8_FILE:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return opened(path, mode, *arguments)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StoreUnavailable, match="models can't be read or written: No space left on device"):
        store.publish("bottles", build)


def test_a_store_that_cant_be_read_or_written_says_so(store: ModelStore, tiny_bundle: Path) -> None:
    store.publish("tiny", copy_build(tiny_bundle))
    pointer = store.root / "tiny" / "current"
    pointer.unlink()
    pointer.mkdir()  # any error of the system will do; permissions would not stop root
    with pytest.raises(StoreUnavailable, match=r"models can't be read or written: .*Is a directory"):
        store.resolve("tiny")


def test_open_store_takes_folders_and_urls(settings: Settings, tiny_bundle: Path, tmp_path: Path) -> None:
    assert open_store(settings).root == tmp_path / "models"
    by_url = open_store(settings.model_copy(update={"model_store": f"file://{tmp_path}/models"}))
    by_url.publish("tiny", copy_build(tiny_bundle))
    assert open_store(settings).versions("tiny") == [1]


def test_a_plain_folder_needs_no_fsspec(tmp_path: Path) -> None:
    program = (
        "import sys; from model_store.registry.store import open_store; from shared.settings import Settings; "
        f"open_store(Settings(model_store={str(tmp_path)!r})).names(); sys.exit('fsspec' in sys.modules)"
    )
    run_python(program)


def test_a_manifest_is_utf_8_in_any_locale(store: ModelStore, copied: Path) -> None:
    manifest = json.loads((copied / MANIFEST_FILE).read_text())
    manifest["training"]["settings"]["labels"] = "Flaschen für München.txt"
    (copied / MANIFEST_FILE).write_text(json.dumps(manifest))
    program = """
import sys
from pathlib import Path
from model_store.registry.store import ModelStore, copy_bundle
ModelStore(Path(sys.argv[1])).publish("tiny", copy_bundle(Path(sys.argv[2]), "tiny"))
"""
    run_python(program, str(store.root), str(copied), environment=ASCII_LOCALE)
    published = open_bundle(store.resolve("tiny")).manifest
    assert published.training.settings["labels"] == "Flaschen für München.txt"
