"""The public names: each is the object of its package, documented and typed, and imported only when it is used."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import producer
import sortline
from tests.kit import PROJECT, run_python

# What a user writes. Each `reveal_type` prints what the type checker takes a name for.
USER_CODE = """
from sortline import *
from sortline import Frame, LineProducer, QueueFull, Settings, SortResult, load_settings, wait_for

settings: Settings = load_settings(max_batch=8)
producer = LineProducer(settings)
try:
    job_ids: list[str] = producer.submit_many([Frame(data=b"", line="line-1", camera="cam-1")])
except QueueFull as error:
    job_ids = list(error.accepted)
result: SortResult = wait_for(job_ids, timeout_s=5)[job_ids[0]]
reveal_type(result.lane)
reveal_type(producer.submit)
reveal_type(ResultTimeout("late", results={}, missing=()).missing)
"""
MISUSES = """
from sortline import LineProducer, load_settings
import sortline

LineProducer(load_settings()).submit(b"", line=1, camera="cam-1")
sortline.Nonsense
"""


def stub_imports(package: str) -> dict[str, str]:
    """The names that a package's stub imports for type checkers, with their modules."""
    tree = ast.parse((PROJECT / package / "__init__.pyi").read_text())
    found = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert len(found) == len(tree.body), "a stub that is read at run time has imports only"
    return {str(alias.asname): str(node.module) for node in found for alias in node.names}


@pytest.fixture(scope="module")
def users_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests: mypy keeps what it knows of our packages there."""
    return tmp_path_factory.mktemp("user")


def mypy(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Check a user's file as in a project of his own, without our configuration."""
    (folder / "user.py").write_text(code)
    (folder / "mypy.ini").write_text("[mypy]\nfollow_untyped_imports = true\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "mypy.ini", "--cache-dir", "cache", "user.py"]
    environment = {"PATH": "/usr/bin:/bin"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False
    )


def test_the_names_that_users_rely_on_are_there() -> None:
    relied_on = {"LineProducer", "Frame", "wait_for", "iter_results", "load_settings", "Settings", "SortResult"}
    relied_on |= {"ResultReader", "ResultGroupReader", "Notice", "NoticeKind"}
    assert {*relied_on, "ImageJob", "SortlineError", "BadInput", "Transient"} <= set(sortline.__all__)


@pytest.mark.parametrize("package", [sortline, producer])
def test_runtime_and_type_checkers_see_the_same_names(package: ModuleType) -> None:
    assert package.__all__ == sorted(stub_imports(package.__name__))


@pytest.mark.parametrize("name", sortline.__all__)
def test_each_name_is_the_documented_object_of_its_package(name: str) -> None:
    public = getattr(sortline, name)
    assert public is getattr(importlib.import_module(stub_imports("sortline")[name]), name)
    assert public.__module__ == stub_imports("sortline")[name], "not the module that defines it"
    assert inspect.getdoc(public)


def test_dir_shows_the_names_before_they_are_used() -> None:
    assert set(sortline.__all__) <= set(run_python("import sortline; print(*dir(sortline))").split())


def test_there_are_no_other_names() -> None:
    with pytest.raises(AttributeError, match=r"module 'sortline' has no attribute 'Nonsense'"):
        _ = sortline.Nonsense  # type: ignore[attr-defined]


def test_importing_it_loads_nothing_until_a_name_is_used() -> None:
    loaded = set(run_python("import sortline, sys; print(*{name.split('.')[0] for name in sys.modules})").split())
    assert not loaded & {"numpy", "PIL", "redis", "rq", "pydantic", "typer", "producer", "worker", "tensorflow"}
    errors = set(run_python("from sortline import QueueFull; import sys; print(*sys.modules)").split())
    assert "shared.errors" in errors
    assert not errors & {"numpy", "redis", "pydantic"}


def test_the_command_line_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-P", "-m", "sortline", "--version"], capture_output=True, text=True)
    assert done.stdout.startswith("sortline "), done.stderr


@pytest.mark.slow
def test_a_users_code_is_typed(users_folder: Path) -> None:
    checked = mypy(users_folder, USER_CODE)
    revealed = [line.partition('Revealed type is "')[2].rstrip('"') for line in checked.stdout.splitlines()]
    assert checked.returncode == 0, checked.stdout + checked.stderr
    lane, submit, missing = [text.replace("builtins.", "") for text in revealed if text]
    assert lane == "str"
    assert "image_bytes: bytes" in submit
    assert submit.endswith("-> str")
    assert missing == "tuple[str, ...]"


@pytest.mark.slow
def test_a_users_mistakes_are_found(users_folder: Path) -> None:
    checked = mypy(users_folder, MISUSES)
    assert 'Argument "line" to "submit" of "LineProducer" has incompatible type "int"' in checked.stdout
    assert 'Module has no attribute "Nonsense"' in checked.stdout


@pytest.mark.parametrize("package", ["sortline", "shared", "producer"])
def test_each_package_behind_the_names_says_that_it_is_typed(package: str) -> None:
    assert (PROJECT / package / "py.typed").is_file()
