"""The syntax trees of all our modules, parsed once, for the tests that look at code."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from pathlib import Path

from tests.kit import PROJECT

PACKAGES = ("shared", "model_store", "producer", "worker", "bench", "torture")


def _sources() -> dict[str, Path]:
    """Every module of ours by its dotted name."""
    found: dict[str, Path] = {}
    for package in (*PACKAGES, "sortline"):
        for path in sorted((PROJECT / package).rglob("*.py")):
            parts = path.relative_to(PROJECT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


SOURCES = _sources()
TREES = {module: ast.parse(path.read_text(encoding="utf-8"), str(path)) for module, path in SOURCES.items()}


def trees_by_path(packages: Collection[str]) -> Iterator[tuple[str, ast.Module]]:
    """The modules of these packages, each as its path in the project."""
    for module, path in SOURCES.items():
        if top(module) in packages:
            yield path.relative_to(PROJECT).as_posix(), TREES[module]


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call below a node, with the dotted name of what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def top(module: str) -> str:
    """The package that a dotted name begins with."""
    return module.split(".")[0]
