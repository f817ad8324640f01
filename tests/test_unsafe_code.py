"""None of our code reads a format that can run code.

Ruff's rules `S` (bandit's) look at all code; here is what they can't see.
"""

from __future__ import annotations

import ast

import pytest

from tests.source_trees import TREES, calls
from tests.test_layout import Import, violations

# Modules that make objects, and call what they name, from bytes.
UNPICKLE = {
    "_pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "jsonpickle",
    "marshal",
    "pickle",
    "shelve",
    "torch",
}
# Makes the hostile jobs that `torture` sends: it writes pickles, and reads none.
WRITE_PICKLES = {f"torture.forging.payloads.{name}" for name in ("messages", "packed_data", "job_fields")}
# A saved Keras model may hold Python code (layers of the kind Lambda), and names classes: loading it runs them. We read
# Keras' weights only, which are numbers, and build the networks ourselves.
KERAS_LOADS = ("load_model", "model_from_json", "model_from_config", "deserialize_keras_object")
# The decoder, and the simulator of a camera, whose pictures the user chooses.
OPEN_ACCEPTED_FORMATS = {"shared.images.decoding", "producer.sources.simulator"}
# These read pictures that the same process has drawn.
OPEN_OUR_OWN_IMAGES = {
    "model_store.reports.page",
    "model_store.reports.tensorboard",
    "producer.demo.contact_sheet",
}
# JSON that processes of ours have written for each other; `producer.results` catches the error around its calls.
READ_OUR_OWN_JSON = {
    "producer.demo.session",
    "producer.results",
    "shared.images.decoder_messages",
    "shared.images.decoder_process",
    "worker.archive.folder",
    "worker.archive.writer_messages",
    "worker.rq.finisher",
}
# RQ's default for all of these is its pickle serializer.
OF_RQ = {"Queue", "Worker", "SimpleWorker", "Job", "Job.create", "Job.fetch", "Job.fetch_many", "Job.restore"}


def argument(call: ast.Call, name: str) -> str | None:
    return next((ast.unparse(given.value) for given in call.keywords if given.arg == name), None)


def is_unsafe(name: str, call: ast.Call) -> bool:
    """Whether this call might make objects, or run code, of whoever wrote the bytes."""
    base, _, last = name.rpartition(".")
    if last in ("load", "fromfile") and base in ("np", "numpy"):
        return argument(call, "allow_pickle") != "False"
    if "keras" in base and last in KERAS_LOADS:
        return True
    return argument(call, "allow_pickle") == "True" or argument(call, "safe_mode") == "False"


def is_pickled_by_rq(name: str, call: ast.Call) -> bool:
    """In our code, only constructors of RQ and of classes that inherit from RQ have an argument `connection`."""
    return (name in OF_RQ or argument(call, "connection") is not None) and (
        argument(call, "serializer") != "JSONSerializer"
    )


def is_check_of_input(test: ast.expr) -> bool:
    """Whether an assertion says more than what a value's type is, or that it is there."""
    if isinstance(test, ast.BoolOp):
        return any(is_check_of_input(value) for value in test.values)
    if isinstance(test, ast.Compare):
        return not all(isinstance(op, ast.Is | ast.IsNot) for op in test.ops)
    if isinstance(test, ast.Call):
        return ast.unparse(test.func) != "isinstance"
    return not (isinstance(test, ast.Attribute) and isinstance(test.value, ast.Name) and test.value.id == "self")


def found(tree: ast.AST) -> list[str]:
    """Everything in a module that these rules refuse."""
    refused = [node for name, node in calls(tree) if is_unsafe(name, node) or is_pickled_by_rq(name, node)]
    asserts = [node for node in ast.walk(tree) if isinstance(node, ast.Assert) and is_check_of_input(node.test)]
    return [f"{node.lineno}: {ast.unparse(node)}" for node in (*refused, *asserts)]


@pytest.mark.parametrize(
    "code",
    [
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "load(path, allow_pickle=True)",
        "tf_keras.models.load_model(path)",
        "keras.models.model_from_json(text)",
        "load(path, safe_mode=False)",
        "Queue('live', connection=client)",
        "Queue('live', connection=client, serializer=DefaultSerializer)",
        "Job.fetch(job_id, connection=client)",
        "super().__init__(queues, name=name, connection=client)",
        "assert len(data) < 10",
        "assert image",
        "assert width > 0 and image is not None",
    ],
)
def test_the_rules_would_notice(code: str) -> None:
    assert len(found(ast.parse(code))) == 1


@pytest.mark.parametrize(
    "code",
    [
        "np.load(path, allow_pickle=False)",
        "load_model(settings)",
        "Queue('live', connection=client, serializer=JSONSerializer)",
        "assert image is not None and isinstance(image, Image), 'no image'",
    ],
)
def test_the_rules_let_pass_what_is_safe(code: str) -> None:
    assert found(ast.parse(code)) == []


@pytest.mark.parametrize("module", sorted(TREES))
def test_nothing_unpickles_loads_code_or_checks_input_by_assert(module: str) -> None:
    """`python -O` drops assertions, so they may only tell the type checker and the reader what is already known."""
    assert found(TREES[module]) == []


def opens_images(tree: ast.AST) -> bool:
    """Whether a module opens image files with Pillow, or names what does in a way that can't be told from others."""
    names_it = any(isinstance(node, ast.ImportFrom) and node.module == "PIL.Image" for node in ast.walk(tree))
    return names_it or any(name in ("Image.open", "PIL.Image.open") for name, _ in calls(tree))


def test_the_rule_about_images_would_notice() -> None:
    for code in ("Image.open(path)", "PIL.Image.open(path, formats=['JPEG'])", "from PIL.Image import open as load"):
        assert opens_images(ast.parse(code))
    assert not opens_images(ast.parse("path.open('rb')"))


def test_pillow_opens_only_images_within_the_decoders_limits_and_our_own() -> None:
    """Pillow has 40 plugins, for formats that nobody sends, and sets few limits to what a file makes it do."""
    opening = {module for module, tree in TREES.items() if opens_images(tree)}
    assert opening == OPEN_ACCEPTED_FORMATS | OPEN_OUR_OWN_IMAGES
    for module in OPEN_ACCEPTED_FORMATS:
        given = [argument(call, "formats") for name, call in calls(TREES[module]) if name == "Image.open"]
        assert None not in given, module


def unguarded_json(tree: ast.AST) -> list[str]:
    """Every `json.loads` that is not in a `try` for RecursionError, which 2 KB of brackets raise."""
    guarded = {
        id(node)
        for guard in ast.walk(tree)
        if isinstance(guard, ast.Try)
        and any(handler.type and "RecursionError" in ast.unparse(handler.type) for handler in guard.handlers)
        for statement in guard.body
        for node in ast.walk(statement)
    }
    found = (call for name, call in calls(tree) if name in ("json.loads", "json.load") and id(call) not in guarded)
    return [f"{call.lineno}: {ast.unparse(call)}" for call in found]


def test_the_rule_about_json_would_notice() -> None:
    guarded = "try:\n    json.loads(text)\nexcept (ValueError, RecursionError):\n    pass"
    assert unguarded_json(ast.parse(guarded)) == []
    assert unguarded_json(ast.parse(guarded.replace(", RecursionError", ""))) == ["2: json.loads(text)"]


@pytest.mark.parametrize("module", sorted(TREES.keys() - READ_OUR_OWN_JSON))
def test_foreign_json_may_be_nested_as_deeply_as_it_likes(module: str) -> None:
    if module.split(".")[0] in ("model_store", "producer", "shared", "worker"):
        assert unguarded_json(TREES[module]) == []


def test_no_module_that_unpickles_is_imported() -> None:
    def breaks(module: str, imported: Import) -> bool:
        return imported.top in UNPICKLE and module not in WRITE_PICKLES

    assert violations(breaks) == []


def test_the_modules_that_write_pickles_read_none() -> None:
    called = {name for module in WRITE_PICKLES for name, _ in calls(TREES[module])}
    used = {name for name in called if name.startswith(("pickle.", "marshal."))}
    assert used == {"pickle.dumps", "marshal.dumps"}
