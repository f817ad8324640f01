"""A bundle that was changed in any way is not opened."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from model_store.bundle.files import file_digests, open_bundle
from model_store.bundle.manifest import FP32_FILE, GOLDEN_FILE, INT8_FILE, MANIFEST_FILE, Manifest
from shared.errors import BadBundle


def change_manifest(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads((bundle / MANIFEST_FILE).read_text())
    change(values)
    (bundle / MANIFEST_FILE).write_text(json.dumps(values))


def drop_good(policy: dict[str, Any]) -> None:
    del policy["lanes"]["good"]
    policy["precedence"].remove("good")


def test_an_untouched_bundle_opens(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    assert bundle.manifest.classes == ("good", "no cap", "disfigured")
    assert bundle.manifest.files.keys() >= {INT8_FILE, FP32_FILE, GOLDEN_FILE, "saved_model/saved_model.pb"}
    assert MANIFEST_FILE not in bundle.manifest.files
    assert bundle.ref("litert").model_dump() == {"name": "tiny", "version": 1, "engine": "litert"}


def test_every_changed_file_is_found_and_named(copied: Path) -> None:
    for name in open_bundle(copied).manifest.files:
        before = (copied / name).read_bytes()
        after = bytearray(before or b"\0")
        after[len(after) // 2] ^= 1
        (copied / name).write_bytes(after)
        with pytest.raises(BadBundle, match=f"{name} has SHA-256"):
            open_bundle(copied)
        (copied / name).write_bytes(before)
    open_bundle(copied)


def test_a_truncated_a_missing_and_an_unlisted_file_are_named(copied: Path) -> None:
    model = copied / INT8_FILE
    content = model.read_bytes()
    model.write_bytes(content[:-1])
    with pytest.raises(BadBundle, match=INT8_FILE):
        open_bundle(copied)
    model.unlink()
    with pytest.raises(BadBundle, match=f"{INT8_FILE} is missing"):
        open_bundle(copied)
    model.write_bytes(content)
    (copied / "saved_model" / "extra.txt").write_text("?")
    with pytest.raises(BadBundle, match=r"saved_model/extra\.txt is not listed"):
        open_bundle(copied)


def test_a_link_is_refused_even_if_its_target_has_the_right_content(copied: Path, tiny_bundle: Path) -> None:
    (copied / INT8_FILE).unlink()
    (copied / INT8_FILE).symlink_to(tiny_bundle / INT8_FILE)
    with pytest.raises(BadBundle, match="neither a regular file nor a folder"):
        open_bundle(copied)


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "a/../../b", "a//b", "./a", ".", "", "a\0b", MANIFEST_FILE]
)
def test_a_listed_name_that_is_not_one_inside_the_folder_is_refused(copied: Path, name: str) -> None:
    change_manifest(copied, lambda values: values["files"].update({name: "0" * 64}))
    (copied.parent / "outside").write_text("")
    with pytest.raises(BadBundle, match=r"files: .*can't be the name of a file in the bundle"):
        open_bundle(copied)


def test_a_digest_that_is_none_is_refused(copied: Path) -> None:
    change_manifest(copied, lambda values: values["files"].update({INT8_FILE: "0" * 63}))
    with pytest.raises(BadBundle, match="should be 64 hexadecimal digits"):
        open_bundle(copied)


def test_a_missing_or_malformed_manifest_is_refused(copied: Path) -> None:
    (copied / MANIFEST_FILE).write_text('{"name": "tiny"')
    with pytest.raises(BadBundle, match=MANIFEST_FILE):
        open_bundle(copied)
    (copied / MANIFEST_FILE).unlink()
    with pytest.raises(BadBundle, match="No such file"):
        open_bundle(copied)


@pytest.mark.timeout(60)  # a pipe that is opened waits for ever
@pytest.mark.parametrize("name", ["manifest.json", "model.tflite"])
def test_a_file_that_is_a_pipe_is_refused(copied: Path, name: str) -> None:
    (copied / name).unlink(missing_ok=True)
    os.mkfifo(copied / name)
    with pytest.raises(BadBundle, match=f"{name}.*(not a regular file|neither a regular file nor a folder)"):
        open_bundle(copied)


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values["policy"]["lanes"].pop("no cap"),
        lambda values: values["policy"].update(precedence=["no cap", "good"]),
        lambda values: values["policy"]["thresholds"].update(nocap=0.9),
        lambda values: values.update(classes=["good", "no cap", "disfigured", "good"]),
        lambda values: (values.update(classes=["no cap", "disfigured"]), drop_good(values["policy"])),
        lambda values: values.update(schema_version=2),
        lambda values: values.update(surprise=1),
    ],
    ids=[
        "no lane",
        "no precedence",
        "misspelt class",
        "class twice",
        "multi without good",
        "newer schema",
        "unknown field",
    ],
)
def test_a_manifest_with_an_incomplete_policy_is_refused(
    copied: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    change_manifest(copied, change)
    with pytest.raises(BadBundle, match="not a manifest"):
        open_bundle(copied)
    with pytest.raises(ValidationError):
        Manifest.model_validate_json((copied / MANIFEST_FILE).read_bytes())


def test_digests_do_not_depend_on_the_place(copied: Path, tiny_bundle: Path) -> None:
    assert file_digests(copied) == file_digests(tiny_bundle)
