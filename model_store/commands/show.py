"""`sortline models show`: one version, described for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from model_store.commands.options import ModelArgument, StoreFlag
from shared.cli import JsonFlag, print_json
from shared.messages import say

if TYPE_CHECKING:
    from rich.console import Console

    from model_store.bundle.manifest import Manifest


def show_model(model: ModelArgument = None, model_store: StoreFlag = None, as_json: JsonFlag = False) -> None:
    """Show one version: its metrics, its policy, how it was made, and where its report is.

    The metrics are those of its validation images. The keys that have signed it are shown whether they are trusted or
    not. --json prints its manifest.

    Example: sortline models show bottles@3
    """
    from model_store.bundle.files import read_manifest, signers
    from model_store.bundle.manifest import REPORT_DIR
    from model_store.registry.chosen_model import chosen_model
    from model_store.registry.store import open_store
    from shared.settings import load_settings

    settings = load_settings(model=model, model_store=model_store)
    store = open_store(settings)
    path = store.resolve(chosen_model(settings, store, flag="sortline models show "))
    manifest = read_manifest(path)
    page = path / REPORT_DIR / "index.html"
    report = str(page) if page.is_file() else None
    signed_by = [{"key_id": key.id, "public_key": str(key)} for key in signers(path)]
    found = {"path": str(path), "report": report, "signed_by": signed_by}
    if as_json:
        print_json(found | manifest.model_dump(mode="json"))
        return
    is_current = store.pointer(manifest.name) == manifest.version
    print_version(manifest, path, report=report, is_current=is_current)
    for key in signed_by:
        say(f"signed by key {key['key_id']}: {key['public_key']}")


def print_version(manifest: Manifest, path: Path, *, report: str | None, is_current: bool) -> None:
    from model_store.reports.model_summary import CLASS_COLUMNS, class_rows, summary_sections
    from shared.tables import plain_console, print_facts, print_table

    console = plain_console()
    console.print(f"{manifest.name}@{manifest.version}{' (current)' if is_current else ''}", style="bold")
    after_metrics = 1 if manifest.metrics else 0
    for number, section in enumerate(summary_sections(manifest)):
        console.print()
        print_facts(console, section.rows, title=section.title)
        if number == after_metrics and (rows := class_rows(manifest)):
            console.print()
            print_table(console, CLASS_COLUMNS, rows, title="Classes", text=(0, len(CLASS_COLUMNS) - 1))
    console.print()
    _print_files(console, manifest, path)
    console.print(f"report: {report}" if report else "report: this version has none", soft_wrap=True)


def _print_files(console: Console, manifest: Manifest, path: Path) -> None:
    """The sizes of the bundle's parts; a folder is one part."""
    sizes: dict[str, int] = {}
    for name in manifest.files:
        part = name.split("/")[0]
        sizes[part] = sizes.get(part, 0) + (path / name).stat().st_size
    parts = ", ".join(f"{part} {size / 1e6:.1f} MB" for part, size in sizes.items())
    console.print(f"files: {len(manifest.files)}, {sum(sizes.values()) / 1e6:.1f} MB ({parts})")
    console.print(f"folder: {path}", soft_wrap=True)
