"""The features of resolved backbones: right for every kind of source and every scaling of pixels, and trainable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model_store.backbones import sources
from model_store.backbones.resolve import Backbone, resolve_backbone
from model_store.runtime.tensorflow_imports import import_hub, import_keras, import_tensorflow
from shared.errors import BadBackbone, NotFound
from tests.model_store.backbones.module_server import ModuleServer, tar_gz
from tests.model_store.tiny_backbone import SIZE_PX
from tests.model_store.tiny_modules import save_colors, save_keras_whole, save_normalized

pytestmark = pytest.mark.training


def _images(count: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, SIZE_PX, SIZE_PX, 3)).astype(np.uint8)


def _features(backbone: Backbone, images: np.ndarray) -> np.ndarray:
    """The features of the cached module, computed as in training: through hub.KerasLayer, images from 0 to 1."""
    layer = import_hub().KerasLayer(str(backbone.path), trainable=False)
    return np.asarray(layer(import_tensorflow().constant(images / 255.0, "float32")))


def test_a_cached_module_can_still_be_trained(tmp_path: Path) -> None:
    """A gradient reaches every weight, and the normalization's statistics change only in training."""
    tf, hub = import_tensorflow(), import_hub()
    folder, network = save_normalized(tmp_path / "module")
    backbone = resolve_backbone(str(folder), cache=tmp_path / "cache")
    assert backbone.trainable
    layer = hub.KerasLayer(str(backbone.path), trainable=True)
    assert [tuple(v.shape) for v in layer.trainable_variables] == [tuple(v.shape) for v in network.trainable_variables]
    images = tf.constant(_images(4) / 255.0, tf.float32)
    statistics = [variable.numpy() for variable in layer.non_trainable_variables]
    assert len(statistics) == 2
    with tf.GradientTape() as tape:
        features = layer(images, training=False)
        loss = tf.reduce_sum(features**2)
    np.testing.assert_allclose(features, network(images, training=False), atol=1e-5)
    gradients = tape.gradient(loss, layer.trainable_variables)
    assert all(np.abs(gradient.numpy()).max() > 0 for gradient in gradients)
    for before, variable in zip(statistics, layer.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(variable.numpy(), before)
    layer(images, training=True)
    for before, variable in zip(statistics, layer.non_trainable_variables, strict=True):
        assert np.abs(variable.numpy() - before).max() > 0


@pytest.mark.parametrize("wants", ["-1..1", "0..255"])
def test_a_stated_scaling_is_applied_inside(tmp_path: Path, wants: str) -> None:
    tf, hub = import_tensorflow(), import_hub()
    folder, network = save_normalized(tmp_path / "module", wants=wants)
    backbone = resolve_backbone(f"{folder}#scaling={wants}", cache=tmp_path / "cache")
    assert (backbone.scaling, backbone.handle) == (wants, f"{folder}#scaling={wants}")
    images = _images(3)
    fed = images / 127.5 - 1 if wants == "-1..1" else images.astype(np.float32)
    wanted = network(tf.constant(fed, tf.float32), training=False).numpy()
    features = _features(backbone, images)
    np.testing.assert_allclose(features, wanted, atol=1e-4)
    layer = hub.KerasLayer(str(backbone.path), trainable=True)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(tf.constant(images / 255.0, tf.float32), training=True))
    assert all(gradient is not None for gradient in tape.gradient(loss, layer.trainable_variables))
    statistics = [variable.numpy() for variable in layer.non_trainable_variables]
    assert len(statistics) == 2
    layer(tf.constant(images / 255.0, tf.float32), training=True)
    for before, variable in zip(statistics, layer.non_trainable_variables, strict=True):
        assert np.abs(variable.numpy() - before).max() > 0


def test_the_same_weights_with_another_scaling_are_another_backbone(tmp_path: Path) -> None:
    """Otherwise the features of one would be taken from the cache of the other."""
    folder = save_colors(tmp_path / "module")
    one, other = (resolve_backbone(f"{folder}#scaling={text}", cache=tmp_path) for text in ("-1..1", "0..255"))
    weights = [
        (backbone.path / "variables" / "variables.data-00000-of-00001").read_bytes() for backbone in (one, other)
    ]
    assert weights[0] == weights[1]
    assert one.sha256 != other.sha256


def test_a_scaling_that_blinds_the_network_is_noticed(tmp_path: Path) -> None:
    folder, _ = save_normalized(tmp_path / "module", wants="0..255")
    with pytest.raises(BadBackbone, match=r"fed 0\.\.1, hardly tells pictures apart.*#scaling=0\.\.255"):
        resolve_backbone(str(folder), cache=tmp_path / "cache")


def test_a_scaling_that_saturates_the_network_is_noticed(tmp_path: Path) -> None:
    folder, _ = save_normalized(tmp_path / "module", wants="-1..1")
    with pytest.raises(BadBackbone, match=r"fed 0\.\.255, hardly tells pictures apart.*#scaling=-1\.\.1"):
        resolve_backbone(f"{folder}#scaling=0..255", cache=tmp_path / "cache")


def test_a_network_saved_by_keras_must_state_its_scaling(tmp_path: Path) -> None:
    folder, network = save_keras_whole(tmp_path / "whole")
    with pytest.raises(BadBackbone, match=r"was saved by Keras .*whole#scaling=-1\.\.1"):
        resolve_backbone(str(folder), cache=tmp_path / "cache")
    backbone = resolve_backbone(f"{folder}#scaling=-1..1", cache=tmp_path / "cache")
    images = _images(2)
    features = _features(backbone, images)
    np.testing.assert_allclose(features, network(images / 127.5 - 1, training=False), atol=1e-4)
    assert backbone.trainable


def test_the_hub_path_end_to_end(hub_module: Path, server: ModuleServer, tmp_path: Path) -> None:
    """A TF-Hub URL, the URL of a .tar.gz, a .tar.gz on disk, and a folder all give the same features."""
    content = tar_gz(hub_module)
    (tmp_path / "tiny.tar.gz").write_bytes(content)
    handles = [
        server.serve("/google/tiny/feature_vector/4", content),
        server.serve("/tiny.tar.gz", content),
        str(tmp_path / "tiny.tar.gz"),
        str(hub_module),
    ]
    cache, images = tmp_path / "cache", _images(3)
    backbones = [resolve_backbone(handle, cache=cache, insecure_http=True) for handle in handles]
    assert {(one.sha256, one.input_size_px, one.feature_width) for one in backbones} == {
        (backbones[0].sha256, SIZE_PX, 24)
    }
    assert server.requests == ["/google/tiny/feature_vector/4?tf-hub-format=compressed", "/tiny.tar.gz"]
    module = import_hub().load(str(hub_module))
    wanted = module(import_tensorflow().constant(images / 255.0, "float32")).numpy()
    for backbone in (backbones[0], backbones[2]):
        np.testing.assert_allclose(_features(backbone, images), wanted, atol=1e-5)
    server.pages.clear()  # from now on only the cache has the modules
    assert resolve_backbone(handles[0], cache=cache, insecure_http=True) == backbones[0]


def test_keras_weights_come_by_http(server: ModuleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights come from a local HTTP server. Wrong weights are refused and leave nothing behind."""
    monkeypatch.setattr(sources, "_KERAS_SERVER", f"{server.url}/")
    places = {name: f"/{network.weights}" for name, network in sources._KERAS_NETWORKS.items()}
    with pytest.raises(NotFound, match=r"1\.0_224_no_top\.h5 can't be downloaded: .* 404"):
        resolve_backbone("keras:MobileNetV2", cache=tmp_path / "cache")
    server.serve(places["InceptionV3"], b"other weights")
    with pytest.raises(
        BadBackbone, match=r"weights of keras:InceptionV3 are not used: they have MD5 .*, but should have bcbd"
    ):
        resolve_backbone("keras:InceptionV3", cache=tmp_path / "cache")
    server.serve(places["MobileNetV2"], b"no weights")
    with pytest.raises(BadBackbone, match="don't fit MobileNetV2"):
        resolve_backbone("keras:MobileNetV2", cache=tmp_path / "cache")
    assert list((tmp_path / "cache" / "backbones").iterdir()) == []
    keras = import_keras()
    keras.utils.set_random_seed(5)
    network = keras.applications.MobileNetV2(include_top=False, pooling="avg", weights=None, input_shape=(224, 224, 3))
    network.save_weights(str(tmp_path / "weights.h5"))
    server.serve(places["MobileNetV2"], (tmp_path / "weights.h5").read_bytes())
    backbone = resolve_backbone("keras:MobileNetV2", cache=tmp_path / "cache")
    assert backbone.input_size_px == 224
    images = np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3)).astype(np.uint8)
    features = _features(backbone, images)
    np.testing.assert_allclose(features[:, -1280:], network(images / 127.5 - 1, training=False), atol=1e-4)


def test_the_weights_are_those_that_keras_would_download() -> None:
    import_keras()
    from tf_keras.src.applications import inception_v3, mobilenet_v2

    networks = sources._KERAS_NETWORKS
    assert sources._KERAS_SERVER + networks["InceptionV3"].weights == inception_v3.WEIGHTS_PATH_NO_TOP
    assert (sources._KERAS_SERVER + networks["MobileNetV2"].weights).startswith(mobilenet_v2.BASE_WEIGHT_PATH)
