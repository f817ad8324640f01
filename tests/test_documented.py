"""Every command, setting and metric is documented, and nothing is documented that isn't there.

The pages for developers name files, and what is in them: those exist too.
"""

from __future__ import annotations

import pkgutil
import re
import shlex
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

import sortline.cli
from producer.metrics import REFUSED, SUBMITTED
from shared.settings import Settings
from tests.kit import PROJECT
from tests.source_trees import PACKAGES
from tests.test_layout import MAY_IMPORT
from worker.observe.metrics import Metrics
from worker.observe.queue_gauges import QueueGauges

PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "deploy/README.md",
    *(str(path.relative_to(PROJECT)) for path in sorted((PROJECT / "docs").rglob("*.md"))),
)
FOR_DEVELOPERS = [
    page for page in PAGES if page.startswith(("CONTRIBUTING", "docs/architecture", "docs/style", "docs/dec"))
]
READ_FROM_THE_SERVER = {
    "sortline_redis_up",
    "sortline_queue_depth",
    "sortline_queue_oldest_seconds",
    "sortline_queue_bytes",
    "sortline_queue_capacity_images_per_second",
    "sortline_queue_drain_seconds",
    "sortline_queue_load_ratio",
    "sortline_redis_memory_used_bytes",
    "sortline_redis_memory_max_bytes",
}
# A command in a code block, also after variables, or between backquotes.
_COMMAND = re.compile(r"^    (?:[A-Z_]+=\S+ )*(sortline [^#\n]+)|`(sortline [^`]+)`", re.MULTILINE)
# A file or folder of the repository, and what is in it: `worker/pipeline.py` `Pipeline.drain`.
_FILE = re.compile(r"`([\w.-]+/(?:[\w.-]+/)*(?:[\w.-]+\.\w+)?)`(?:\s`([\w.]+)`)?")


def _commands() -> dict[str, typer.main.TyperCommand]:
    return dict(typer.main.get_command(sortline.cli.app).commands)  # type: ignore[attr-defined]


def test_readme_lists_exactly_the_commands() -> None:
    listed = re.findall(r"^\| `sortline (\w+)` \|", (PROJECT / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(_commands())


def test_readme_lists_exactly_the_commands_of_models() -> None:
    row = re.search(r"^\| `sortline models` \| (.*) \|$", (PROJECT / "README.md").read_text(), re.MULTILINE)
    assert row is not None
    inner: dict[str, object] = _commands()["models"].commands  # type: ignore[attr-defined]
    assert sorted(re.findall(r"`([\w-]+)`", row[1])) == sorted(inner)


def test_every_command_has_help_with_an_example() -> None:
    def leaves(commands: dict[str, object], path: str = "sortline") -> dict[str, str]:
        found = {}
        for name, command in commands.items():
            inner = getattr(command, "commands", None)
            found |= leaves(inner, f"{path} {name}") if inner else {f"{path} {name}": command.help or ""}
        return found

    for path, text in leaves(_commands()).items():
        assert path in text.partition("Example: ")[2], f"{path} --help has no example"


def test_the_settings_page_has_every_setting_with_its_default_and_meaning() -> None:
    page = (PROJECT / "docs" / "settings.md").read_text()
    rows = [f"| `{name}` | `{field.default}` | {field.description} |" for name, field in Settings.model_fields.items()]
    assert [line for line in page.splitlines() if line.startswith("| `")] == rows


def test_the_metrics_page_has_every_metric() -> None:
    page = (PROJECT / "docs" / "metrics.md").read_text()
    documented = set(re.findall(r"^\| `(sortline_\w+)", page, re.MULTILINE))
    exposed = {SUBMITTED._name + "_total", REFUSED._name + "_total", *READ_FROM_THE_SERVER}
    for family in Metrics().registry.collect():
        exposed.add(family.name + ("_total" if family.type == "counter" else ""))
    assert documented == exposed


def test_the_queue_gauges_are_those_that_the_page_names(client: object) -> None:
    gauges = QueueGauges(client, queues=["live"])  # type: ignore[arg-type]
    assert {family.name for family in gauges.collect()} == READ_FROM_THE_SERVER


def test_the_glossary_names_what_exists() -> None:
    page = (PROJECT / "docs" / "glossary.md").read_text()
    names = re.findall(r"^\| [^|`]+ \| `([\w.]+)` \|", page, re.MULTILINE)
    assert len(names) == len(re.findall(r"^\| .*`", page, re.MULTILINE)) > 50
    assert [name for name in names if not exists(name)] == []
    assert not exists("worker.state.jobs.Lea")


def exists(name: str) -> bool:
    """Whether a module, or a name in one, can be found by its full name."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


@pytest.mark.parametrize("page", FOR_DEVELOPERS)
def test_the_pages_for_developers_name_what_exists(page: str) -> None:
    for path, name in _FILE.findall((PROJECT / page).read_text()):
        assert (PROJECT / path).exists(), f"{page}: {path}"
        for part in name.split(".") if name else ():
            defined = rf"^\s*(?:def|class) {part}\b|^\s*{part} ?[:=]"
            assert re.search(defined, (PROJECT / path).read_text(), re.MULTILINE), f"{page}: {part} in {path}"


def test_the_architecture_page_names_many_files() -> None:
    found = _FILE.findall(section_of("docs/architecture.md", "The path of an image"))
    assert len([name for _, name in found if name]) > 20


def test_the_architecture_page_lists_the_stages_and_the_other_threads() -> None:
    stages, _, others = section_of("docs/architecture.md", "The threads of a worker").partition("| thread | does |")
    pipeline = (PROJECT / "worker" / "pipeline.py").read_text()
    assert re.findall(r"^\| `([\w-]+)` \|", stages, re.MULTILINE) == re.findall(r"yield Stage\(\"([\w-]+)\"", pipeline)
    named = re.findall(r"^\| `([\w-]+)` \| .* `([\w/.]+)` `\w+` \|$", others, re.MULTILINE)
    assert len(named) == len(re.findall(r"^\| `", others, re.MULTILINE)) > 4
    assert [thread for thread, path in named if f'name="{thread}"' not in (PROJECT / path).read_text()] == []


def test_the_architecture_page_says_who_may_import_whom() -> None:
    section = section_of("docs/architecture.md", "Who may import whom")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE))
    assert rows.keys() == MAY_IMPORT.keys()
    assert MAY_IMPORT["sortline"] == PACKAGES
    for package in PACKAGES:
        assert tuple(re.findall(r"`([\w.]+)`", rows[package])) == MAY_IMPORT[package], package


DECISIONS = [path for path in sorted((PROJECT / "docs" / "decisions").glob("*.md")) if path.name != "README.md"]


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_each_decision_is_listed_and_has_the_form_of_the_others(page: Path) -> None:
    assert f"]({page.name})" in page.with_name("README.md").read_text()
    assert re.findall(r"^## (.+)$", page.read_text(), re.M) == ["Context", "Decision", "Consequences", "Figures"]


def section_of(page: str, heading: str) -> str:
    """The text below a heading, up to the next one."""
    return re.split(r"^## ", (PROJECT / page).read_text().partition(f"## {heading}\n")[2], flags=re.MULTILINE)[0]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", (PROJECT / page).read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = ((PROJECT / page).parent / path).resolve() if path else PROJECT / page
        assert file.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors_of(file), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES)
def test_table_rows_have_as_many_columns_as_their_header(page: str) -> None:
    for table in re.findall(r"(?:^\|.*\n?)+", (PROJECT / page).read_text(), re.MULTILINE):
        header, *rows = table.splitlines()
        for row in rows:
            assert columns_of(row) == columns_of(header), f"{page}: {row}"


def columns_of(row: str) -> int:
    """The number of cells. `\\|` is a character in a cell; any other `|`, also in code, ends a cell."""
    return len(re.findall(r"(?<!\\)\|", row)) - 1


@pytest.mark.parametrize("page", PAGES)
def test_commands_on_the_pages_take_their_options(page: str) -> None:
    """Asked for help with its own arguments, the command line knows each of them."""
    text = (PROJECT / page).read_text().replace("\\\n", " ")
    for match in _COMMAND.finditer(text):
        words = shlex.split(match[1] or match[2])[1:]
        words = [word for word in words if word != "&"]
        answer = CliRunner().invoke(sortline.cli.app, [*words, "--help"])
        assert answer.exit_code == 0, f"{page}: sortline {' '.join(words)}\n{answer.output}"


def anchors_of(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
