"""Lists the models of a store: one row for each complete version, and one for each fault.

In: a store. Out: dicts with the same keys, as `models list --json` prints them. A damaged model doesn't hide others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from model_store.bundle.manifest import Manifest
from model_store.registry.canary import Canary
from model_store.registry.reader import ReadableStore
from shared.errors import SortlineError

T = TypeVar("T")
Row = dict[str, Any]


def list_versions(store: ReadableStore) -> list[Row]:
    """The rows of all models; a row's `error` is None if nothing is wrong.

    Raises:
        StoreUnavailable: not even the models' names can be read.
    """
    return [row for name in store.model_folders() for row in _stable_rows(store, name)]


def _stable_rows(store: ReadableStore, name: str) -> list[Row]:
    """The rows of one model. Reads again after an error, because the model may have been changed between two reads."""
    rows = _read_rows(store, name)
    return _read_rows(store, name) if any(row["error"] for row in rows) else rows


def _read_rows(store: ReadableStore, name: str) -> list[Row]:
    errors: list[str] = []
    current = _try_read(store.pointer, name, errors)
    canary = _try_read(store.canary_intent, name, errors)
    if canary is not None and canary.version == current:  # it was promoted, so the canary has ended
        canary = None
    manifests = _try_read(lambda name: _manifests(store, name), name, errors)
    rows = [
        _row(name, version, manifest, current, canary, signed_by=_key_ids(store, name, version, errors))
        for version, manifest in (manifests or {}).items()
    ]
    if manifests is not None:
        rows += _missing_rows(name, manifests, current, canary)
    return rows + [_row(name, None, None, None, None, error=error) for error in errors]


def _try_read(read: Callable[[str], T], name: str, errors: list[str]) -> T | None:
    try:
        return read(name)
    except SortlineError as error:
        errors.append(str(error))
        return None


def _manifests(store: ReadableStore, name: str) -> dict[int, Manifest]:
    """The manifests of the complete versions; `models verify` says why others are incomplete."""
    found = {version: store.manifest(name, version) for version in store.version_numbers(name)}
    return {version: manifest for version, manifest in found.items() if manifest is not None}


def _key_ids(store: ReadableStore, name: str, version: int, errors: list[str]) -> list[str]:
    """The ids of the keys that a version claims to be signed by; `models verify` checks the signatures."""
    signatures = _try_read(lambda name: store.signatures(name, version), name, errors)
    return [signature.public_key.id for signature in signatures or ()]


def _missing_rows(name: str, manifests: dict[int, Manifest], current: int | None, canary: Canary | None) -> list[Row]:
    """Rows for a current version or a canary that doesn't exist or is incomplete."""
    rows = []
    if current is not None and current not in manifests:
        error = f"the current version {name}@{current} is missing or incomplete: promote or publish another version."
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
    signed_by: Sequence[str] = (),
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
        "signed_by": list(signed_by),
        "error": error,
    }
