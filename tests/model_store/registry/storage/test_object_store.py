"""A store at a URL: no reader sees a partial version, and versions are read from a checked copy."""

from __future__ import annotations

import contextlib
import importlib.util
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model_store.bundle.files import open_bundle
from model_store.bundle.manifest import GOLDEN_FILE, INT8_FILE, MANIFEST_FILE
from model_store.bundle.signing import make_key
from model_store.registry.storage.lease import Lease
from model_store.registry.storage.local import LocalStorage
from model_store.registry.storage.object_client import ObjectClient, check_encrypted
from model_store.registry.storage.object_store import FsspecStorage
from model_store.registry.store import ModelStore, open_store
from shared.errors import BadBundle, BadSetting, NotFound, SortlineError, StoreUnavailable
from shared.settings import Settings
from tests.model_store.registry.stores import FakeClock, objects
from tests.model_store.tiny_bundle import copy_build


class Watched(ObjectClient):
    """An ObjectClient whose operations a test can count or make fail."""

    def __init__(self, inner: ObjectClient) -> None:
        super().__init__(inner._fs, inner._root, location=inner.location)
        self.downloads: list[str] = []
        self.changes = 0
        self.changes_until_dead: int | None = None
        self.garbles: str | None = None  # uploads of files with this name arrive truncated

    def put(self, file: str, data: bytes) -> None:
        self._change()
        super().put(file, data)

    def upload(self, local: Path, file: str) -> None:
        self._change()
        super().upload(local, file)
        if self.garbles is not None and file.endswith(self.garbles):
            super().put(file, local.read_bytes()[:-1])

    def delete(self, file: str) -> None:
        self._change()
        super().delete(file)

    def delete_folder(self, folder: str) -> None:
        self._change()
        super().delete_folder(folder)

    def download(self, file: str, local: Path) -> None:
        self.downloads.append(file)
        super().download(file, local)

    def _change(self) -> None:
        self.changes += 1
        if self.changes_until_dead is not None and self.changes > self.changes_until_dead:
            raise StoreUnavailable("as if the process had been killed: not even clearing away works")


@pytest.fixture(params=["memory", "fsspec files"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Watched:
    return Watched(objects(request.param, tmp_path))


def on(remote: ObjectClient, cache: Path, *, lease: Callable[[ObjectClient, str], Lease] = Lease) -> ModelStore:
    return ModelStore(FsspecStorage(remote, cache=LocalStorage(cache), lease=lease))


def impatient(remote: ObjectClient, folder: str) -> Lease:
    """A lease that waits for others without taking any time."""
    clock = FakeClock()
    return Lease(remote, folder, clock=clock, sleep=clock.pass_by)


@pytest.fixture
def store(remote: Watched, tmp_path: Path, tiny_bundle: Path) -> ModelStore:
    """A store with `tiny` 1 and 2, as the machine that published them sees it."""
    store = on(remote, tmp_path / "cache")
    for _ in range(2):
        store.publish("tiny", copy_build(tiny_bundle))
    return store


@pytest.fixture
def elsewhere(remote: Watched, store: ModelStore, tmp_path: Path) -> ModelStore:
    """The same store, as another machine sees it."""
    remote.downloads.clear()
    return on(remote, tmp_path / "cache of another machine")


def test_another_machine_reads_a_published_version(
    store: ModelStore, elsewhere: ModelStore, remote: Watched, tmp_path: Path
) -> None:
    path = elsewhere.resolve("tiny")
    assert path == tmp_path / "cache of another machine" / "tiny" / "000002"
    bundle = open_bundle(path)
    assert (bundle.manifest.version, bundle.manifest.parent) == (2, 1)
    assert len(remote.downloads) == len(bundle.manifest.files) + 1
    assert elsewhere.names() == ["tiny"]
    assert elsewhere.versions("tiny") == [1, 2]
    assert (elsewhere.current("tiny"), elsewhere.resolve("tiny")) == (2, path)
    assert len(remote.downloads) == len(bundle.manifest.files) + 1  # not fetched again
    store.promote("tiny", 1)
    assert elsewhere.resolve("tiny").name == "000001"


def test_the_url_of_the_settings(settings: Settings, tiny_bundle: Path, tmp_path: Path) -> None:
    one = settings.model_copy(update={"model_store": f"memory://{tmp_path.name}/a"})
    other = settings.model_copy(update={"model_store": f"memory://{tmp_path.name}/b"})
    path = open_store(one).publish("tiny", copy_build(tiny_bundle))
    assert path.is_relative_to(settings.cache_path / "models")
    assert open_store(one).resolve("tiny") == path
    assert open_store(other).names() == []
    assert open_store(other).root != open_store(one).root


def test_unusable_urls_are_refused(settings: Settings) -> None:
    with pytest.raises(BadSetting, match=r"model_store = nonsense://models can't be used: .*s3://bucket/models"):
        open_store(settings.model_copy(update={"model_store": "nonsense://models"}))
    if importlib.util.find_spec("s3fs") is not None:
        pytest.skip("s3fs is installed: its absence can't be shown")
    with pytest.raises(BadSetting, match=r"s3://key:\*\*\*@bucket/models needs a driver.*pip install s3fs"):
        open_store(settings.model_copy(update={"model_store": "s3://key:secret@bucket/models"}))


def test_a_damaged_copy_is_fetched_again(elsewhere: ModelStore, remote: Watched) -> None:
    path = elsewhere.resolve("tiny")
    for damage in (
        lambda: (path / INT8_FILE).write_bytes(b"?"),
        lambda: (path / GOLDEN_FILE).unlink(),
        lambda: (path / MANIFEST_FILE).write_text("{}"),
        lambda: (path / "extra").write_text("?"),
    ):
        damage()
        remote.downloads.clear()
        assert elsewhere.resolve("tiny") == path
        assert remote.downloads
        open_bundle(path)
    assert [entry.name for entry in path.parent.glob(".[st][tr]*")] == []


def test_a_version_that_is_damaged_in_the_store_is_not_cached(elsewhere: ModelStore, remote: Watched) -> None:
    remote.put(f"tiny/000002/{INT8_FILE}", b"?")
    with pytest.raises(BadBundle, match=rf"tiny@2 as fetched from .*{INT8_FILE}"):
        elsewhere.resolve("tiny")
    assert not (elsewhere.root / "tiny" / "000002").exists()
    assert elsewhere.resolve("tiny@1").name == "000001"


def test_a_cached_copy_is_removed_with_its_version(store: ModelStore, elsewhere: ModelStore, tiny_bundle: Path) -> None:
    old = elsewhere.resolve("tiny@1")
    store.promote("tiny", 2)
    for _ in range(2):
        store.publish("tiny", copy_build(tiny_bundle))
    assert store.prune("tiny", keep=1) == [1, 2]
    with pytest.raises(NotFound, match="tiny@1 is missing or incomplete"):
        elsewhere.resolve("tiny@1")
    assert old.exists()
    elsewhere.resolve("tiny")
    assert not old.exists()


def test_workers_of_one_machine_fetch_a_version_once(store: ModelStore, remote: Watched, tmp_path: Path) -> None:
    remote.downloads.clear()
    found: list[Path] = []

    def fetch() -> None:
        found.append(on(remote, tmp_path / "shared cache").resolve("tiny"))

    threads = [threading.Thread(target=fetch) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "shared cache" / "tiny" / "000002"] * 6
    assert len(remote.downloads) == len(set(remote.downloads))


def test_an_upload_that_arrives_changed_is_not_published(store: ModelStore, remote: Watched, tiny_bundle: Path) -> None:
    remote.garbles = INT8_FILE
    with pytest.raises(BadBundle, match=INT8_FILE):
        store.publish("tiny", copy_build(tiny_bundle))
    assert (store.version_numbers("tiny"), store.current("tiny")) == ([1, 2], 2)
    assert hidden(remote) == []


def hidden(remote: ObjectClient) -> list[str]:
    return [entry for entry in remote.entries("tiny") if entry.startswith(".")]


ACTIONS: dict[str, Any] = {
    "publish": lambda store, bundle: store.publish("tiny", copy_build(bundle)),
    "promote": lambda store, _: store.promote("tiny", 1),
    "rollback": lambda store, _: store.rollback("tiny"),
    "prune": lambda store, _: store.prune("tiny", keep=1),
}
STATES = {
    "publish": [([1, 2, 3], (3, 2)), ([1, 2, 3, 4], (3, 2)), ([1, 2, 3, 4], (4, 3, 2))],
    "promote": [([1, 2, 3], (3, 2)), ([1, 2, 3], (1, 3, 2))],
    "rollback": [([1, 2, 3], (3, 2)), ([1, 2, 3], (2,))],
    "prune": [([1, 2, 3], (3, 2)), ([2, 3], (3, 2))],
}


@pytest.mark.parametrize("action", ACTIONS)
def test_a_writer_that_dies_at_any_step_leaves_the_old_or_the_new_state(
    tiny_bundle: Path, tmp_path: Path, action: str
) -> None:
    found = []
    for step in range(100):
        remote = Watched(objects("memory", tmp_path))
        healthy = on(objects_like(remote), tmp_path / f"cache {step}", lease=impatient)
        for version in (1, 2, 3):
            healthy.publish("tiny", copy_build(tiny_bundle), promote=version > 1)
        remote.changes_until_dead = step
        doomed = on(remote, tmp_path / f"cache of the dead {step}")
        with contextlib.suppress(StoreUnavailable):
            ACTIONS[action](doomed, tiny_bundle)
        found.append((healthy.versions("tiny"), healthy.history("tiny").versions))
        for version in healthy.versions("tiny"):
            healthy.check("tiny", version)
        published = healthy.publish("tiny", copy_build(tiny_bundle))
        assert int(published.name) > max(found[-1][0])
        assert healthy.version_numbers("tiny") == [*found[-1][0], int(published.name)]
        assert hidden(remote) == []
        if remote.changes <= step:
            break
    assert list(dict.fromkeys((tuple(versions), history) for versions, history in found)) == [
        (tuple(versions), history) for versions, history in STATES[action]
    ]


def objects_like(remote: ObjectClient) -> ObjectClient:
    return ObjectClient(remote._fs, remote._root, location=remote.location)


def test_a_bundle_that_is_being_copied_in_by_hand_is_invisible_and_left_alone(
    store: ModelStore, remote: Watched, tiny_bundle: Path
) -> None:
    remote.put(f"tiny/000003/{INT8_FILE}", (tiny_bundle / INT8_FILE).read_bytes())
    assert (store.versions("tiny"), store.version_numbers("tiny")) == ([1, 2], [1, 2, 3])
    with pytest.raises(NotFound, match="tiny@3 is missing or incomplete"):
        store.resolve("tiny@3")
    assert store.publish("tiny", copy_build(tiny_bundle)).name == "000004"
    assert list(remote.sizes("tiny/000003")) == [INT8_FILE]


def test_a_version_that_is_deleted_while_it_is_fetched_is_reported(
    elsewhere: ModelStore, remote: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(file: str, local: Path) -> None:
        remote.delete_folder("tiny/000001")
        Watched.download(remote, file, local)

    monkeypatch.setattr(remote, "download", download)
    with pytest.raises(NotFound, match="it was deleted meanwhile"):
        elsewhere.resolve("tiny@1")
    with pytest.raises(NotFound, match="tiny@1 is missing or incomplete"):
        elsewhere.resolve("tiny@1")


def test_names_that_lead_out_of_the_cache_are_refused(elsewhere: ModelStore, tmp_path: Path) -> None:
    remote = Watched(objects("memory", tmp_path))
    store = on(remote, tmp_path / "victim" / "cache")
    remote.put("tiny/000001/../../../evil", b"")
    with pytest.raises(BadBundle, match=r"\.\./\.\./\.\./evil"), store.storage.fresh_copy("tiny", 1):
        pass
    assert not list(tmp_path.rglob("evil"))


def test_whatever_a_driver_raises_becomes_one_error(
    store: ModelStore, remote: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ClientError(Exception):
        """Like botocore's error, which is not an OSError."""

    def fail(*_: object, **__: object) -> None:
        raise ClientError("slow down")

    for operation in ("cat_file", "ls", "find"):
        with monkeypatch.context() as patch:
            patch.setattr(remote._fs, operation, fail)
            with pytest.raises(StoreUnavailable, match=r"can't be read or written: slow down"):
                store.resolve("tiny")
                store.names()
    assert store.resolve("tiny").name == "000002"


def test_a_cache_that_cannot_be_written_is_reported_as_an_unavailable_store(elsewhere: ModelStore) -> None:
    elsewhere.root.parent.mkdir(parents=True, exist_ok=True)
    elsewhere.root.write_text("a file where the cache's folder should be")
    with pytest.raises(StoreUnavailable, match="cached in"):
        elsewhere.resolve("tiny")


@pytest.mark.parametrize("url", ["http://u:hunter2@host/m", "FTP://host/m", "simplecache::http://host/m"])
def test_a_store_that_anyone_on_the_way_can_change_needs_trusted_keys(url: str, tmp_path: Path) -> None:
    settings = Settings(model_store=url, cache_dir=tmp_path)
    match = r"anyone on the way can change what (http|ftp):// brings.*trusted_keys"
    with pytest.raises(BadSetting, match=match) as refused:
        open_store(settings)
    assert "hunter2" not in str(refused.value)
    key = make_key(tmp_path / "release.key", passphrase=None).public_key
    strict = settings.model_copy(update={"trusted_keys": str(key), "model_store": "http://127.0.0.1:9/m"})
    try:
        open_store(strict)
    except SortlineError as error:  # the driver is not installed
        assert "anyone on the way" not in str(error)


def test_encrypted_stores_need_no_keys() -> None:
    for url in ("s3://bucket/models", "https://host/m", "memory://m", "simplecache::s3://http/m"):
        check_encrypted(url)
