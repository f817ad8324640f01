"""Imports each public name of a package when it is first used (PEP 562), so that importing the package is cheap.

The names are listed once, as imports in the package's stub `__init__.pyi`. Type checkers and editors read the stub
directly; this module reads it when the package is imported. (Scientific Python's `lazy_loader` does the same.)
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path


def lazy_names(package: str, file: str) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """The `__getattr__`, `__dir__` and `__all__` of a package whose stub imports the names that it offers.

    Args:
        package: the package's own `__name__`.
        file: the package's own `__file__`; the stub lies beside it.
    """
    module_of_name = _read_stub(Path(file).with_suffix(".pyi"))

    def get(name: str) -> object:
        if name not in module_of_name:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(module_of_name[name]), name)

    def list_names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *module_of_name})

    return get, list_names, sorted(module_of_name)


def _read_stub(path: Path) -> dict[str, str]:
    """The module of each name that the stub imports."""
    imports = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}
