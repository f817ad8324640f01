"""int8 needs functions of TensorFlow and LiteRT that are not public: a version without one is named at once."""

from __future__ import annotations

import pytest

from model_store.export.quantization import check_private_functions
from model_store.runtime.tensorflow_imports import import_tensorflow
from shared.errors import NotFound

pytestmark = pytest.mark.training


def test_the_installed_versions_have_them() -> None:
    check_private_functions()


def test_a_version_without_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import_tensorflow()
    from ai_edge_litert.interpreter import Interpreter
    from tensorflow.lite.python import convert

    monkeypatch.delattr(convert, "mlir_quantize")
    monkeypatch.delattr(Interpreter, "_get_ops_details")
    with pytest.raises(
        NotFound, match=r"can't be exported with TensorFlow \d.*: tensorflow.*\.mlir_quantize and ai_edge"
    ):
        check_private_functions()


def test_a_converter_that_can_no_longer_only_measure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Setting an attribute that the converter doesn't read would quantize twice, without an error."""
    tf = import_tensorflow()

    class Another:
        def __init__(self, functions: object) -> None: ...

    monkeypatch.setattr(tf.lite, "TFLiteConverter", Another)
    with pytest.raises(NotFound, match="_experimental_calibrate_only is missing"):
        check_private_functions()
