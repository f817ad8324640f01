"""The models of a store as rows: one for each complete version, and one for each thing that is wrong.

In: a store. Out: dicts with the same keys, as `models list --json` prints them. What is damaged hides nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from model_store.bundle.manifest import Manifest
from model_store.registry.canary import Canary
from model_store.registry.reader import ReadableStore
from shared.errors import SortlineError

T = TypeVar("T")
Row = dict[str, Any]


def listed(store: ReadableStore) -> list[Row]:
    """The rows of all models; `error` is None where nothing is wrong.

    Raises:
        StoreUnavailable: not even the models' names can be read.
    """
    return [row for name in store.folders() for row in _settled(store, name)]


def _settled(store: ReadableStore, name: str) -> list[Row]:
    """Looked at twice where something is wrong: what is promoted or pruned between two reads is no damage."""
    rows = _model(store, name)
    return _model(store, name) if any(row["error"] for row in rows) else rows


def _model(store: ReadableStore, name: str) -> list[Row]:
    errors: list[str] = []
    current = _asked(store.pointer, name, errors)
    canary = _asked(store.canary_intent, name, errors)
    if canary is not None and canary.version == current:  # promoted, so over
        canary = None
    manifests = _asked(lambda name: _manifests(store, name), name, errors)
    rows = [_row(name, version, manifest, current, canary) for version, manifest in (manifests or {}).items()]
    if manifests is not None:
        rows += _missing(name, manifests, current, canary)
    return rows + [_row(name, None, None, None, None, error=error) for error in errors]


def _asked(read: Callable[[str], T], name: str, errors: list[str]) -> T | None:
    try:
        return read(name)
    except SortlineError as error:
        errors.append(str(error))
        return None


def _manifests(store: ReadableStore, name: str) -> dict[int, Manifest]:
    """Of the complete versions; `models verify` tells why others aren't."""
    found = {version: store.manifest(name, version) for version in store.numbers(name)}
    return {version: manifest for version, manifest in found.items() if manifest is not None}


def _missing(name: str, manifests: dict[int, Manifest], current: int | None, canary: Canary | None) -> list[Row]:
    """Versions that are named as current or on trial, but aren't there."""
    rows = []
    if current is not None and current not in manifests:
        error = f"the current version {name}@{current} is missing or incomplete: promote or publish another."
        rows.append(_row(name, current, None, current, canary, error=error))
    if canary is not None and canary.version not in manifests:
        tried = f"{name}@{canary.version}"
        error = f"the canary {tried} is missing or incomplete: `sortline models canary {name} --stop` ends it."
        rows.append(_row(name, canary.version, None, current, canary, error=error))
    return rows


def _row(
    name: str,
    version: int | None,
    manifest: Manifest | None,
    current: int | None,
    canary: Canary | None,
    *,
    error: str | None = None,
) -> Row:
    tried = canary if canary is not None and canary.version == version else None
    return {
        "name": name,
        "version": version,
        "parent": manifest and manifest.parent,
        "current": version is not None and version == current,
        "canary": tried.model_dump(mode="json") if tried else None,
        "mode": manifest and manifest.mode,
        "classes": manifest and list(manifest.classes),
        "created_at": manifest and manifest.created_at,
        "accuracy": manifest and manifest.metrics.get("accuracy"),
        "macro_f1": manifest and manifest.metrics.get("macro_f1"),
        "error": error,
    }
