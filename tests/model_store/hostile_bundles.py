"""Makes bundles whose digests are right and whose model is hostile."""

from __future__ import annotations

from pathlib import Path

from model_store.bundle.files import file_digests, read_manifest
from model_store.bundle.manifest import FP32_FILE, MANIFEST_FILE


def crash_litert(folder: Path) -> None:
    """Change one byte of the tiny fp32 model, so that LiteRT ends the process that loads it with SIGSEGV.

    It passes LiteRT's own verifier. Found by setting each byte to four values in turn.
    """
    content = bytearray((folder / FP32_FILE).read_bytes())
    content[16] = 0
    (folder / FP32_FILE).write_bytes(content)
    update_digests(folder)


def spoil_litert(folder: Path) -> None:
    """Put something else in the place of the fp32 model."""
    (folder / FP32_FILE).write_bytes(b"no model")
    update_digests(folder)


def spoil_saved_model(folder: Path) -> None:
    """Put something else in the place of the SavedModel's graph."""
    (folder / "saved_model" / "saved_model.pb").write_bytes(b"no graph")
    update_digests(folder)


def update_digests(folder: Path) -> None:
    """Make the manifest list the files as they are now."""
    manifest = read_manifest(folder).model_copy(update={"files": file_digests(folder)})
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json())
