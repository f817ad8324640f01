"""Files that a user names, or that lie in a user's folder, are read by `shared.regular_files`, which never waits.

Walks the syntax tree of the modules that run in a plant, and finds what opens a file for reading in another way.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.source_trees import calls, trees_by_path

PACKAGES = ("shared", "producer", "worker", "model_store")
# What may be opened otherwise, and why.
OTHER_WAYS = {
    "shared/lazy_names.py": "our own modules",
    "shared/cgroups.py": "the kernel's files",
    "shared/images/decoder_program.py": "the kernel's files",
    "producer/sources/file_version.py": "the kernel's files",
    "worker/rq/processes.py": "the kernel's files",
    "producer/sources/demo_dataset.py": "files of the package",
    "shared/server/functions/__init__.py": "files of the package",
    "worker/rq/scripts/__init__.py": "files of the package",
    "producer/demo/session.py": "what the demo has written",
    "model_store/reports/page.py": "what the report has written",
    "model_store/reports/tensorboard.py": "what the report has written",
    "model_store/backbones/sources.py": "what was downloaded; a backbone's file, after `is_file`",
}


def test_files_of_users_are_opened_in_one_way() -> None:
    found = {path for path, tree in trees_by_path(PACKAGES) if any(_opens_for_reading(tree))}
    assert found == OTHER_WAYS.keys(), "use shared.regular_files, or say here why not"


def _opens_for_reading(tree: ast.Module) -> Iterator[bool]:
    """True for `path.read_bytes()`, `path.read_text()`, `path.open("rb")` and `open(path)`."""
    for _, call in calls(tree):
        match call:
            case ast.Call(func=ast.Attribute(attr="read_bytes" | "read_text")):
                yield True
            case ast.Call(func=ast.Attribute(attr="open"), args=[] | [ast.Constant()], keywords=keywords):
                yield _is_for_reading(call.args) and all(word.arg != "fileobj" for word in keywords)
            case ast.Call(func=ast.Name(id="open")):
                yield _is_for_reading(call.args[1:])


def _is_for_reading(modes: list[ast.expr]) -> bool:
    return not modes or (isinstance(modes[0], ast.Constant) and "r" in str(modes[0].value))
