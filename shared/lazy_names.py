"""A package's public names, each imported when it is first used (PEP 562): importing the package costs nothing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence


def lazy_names(
    package: str, names_of_modules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package that offers these names.

    A type checker does not follow them: import the names under TYPE_CHECKING too, and assign these two in its `else`.

    Args:
        package: the package's own `__name__`.
        names_of_modules: the names that each module defines, by the module's full name.
    """
    module_of_name = {name: module for module, names in names_of_modules.items() for name in names}

    def get(name: str) -> object:
        if name not in module_of_name:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(module_of_name[name]), name)

    def list_names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *module_of_name})

    return get, list_names
