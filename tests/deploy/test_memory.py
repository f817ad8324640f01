"""The shipped limits fit each other: what a worker may hold at once stays below its memory limit."""

from __future__ import annotations

import re

from shared.images.decode_cost import CHEAP_PX
from shared.settings import Settings
from tests.deploy.manifests import DEPLOY, read_compose, read_documents
from worker.archive.backlog import MAX_WAITING_BYTES, READ_BYTES, RESULT_WEIGHT
from worker.rq.claimer import MAX_ENCODED_BYTES

GIB = 1024**3
MOST_MB = 890
MOST_MB_WITH_ARCHIVE = 980
# Measured: a worker of the CPU image with the demo's model. TensorFlow's is larger, and not counted here.
IDLE_MB = 130
# Measured: fp32 beside int8, on EfficientNet-Lite0 with two engine threads.
RECHECK_MB = 24
# Measured: the process that decodes costly images, without any.
DECODER_MB = 45
# Measured: the process that writes the archive, without any image.
WRITER_MB = 14
CHEAP_PX_BYTES = 20  # WebP with transparency, which takes most per pixel


def megabytes(count_bytes: float) -> int:
    return round(count_bytes / 1e6)


def shipped() -> dict[str, int]:
    """The rows of the table in deploy/README.md, from the settings' defaults and the code."""
    settings = Settings()
    threads = int(read_compose()["services"]["worker"]["environment"]["SORTLINE_DECODE_THREADS"])
    rows = {
        "a worker with its model on LiteRT, idle": IDLE_MB,
        "the fp32 model that [rechecks int8](../docs/training.md#int8-is-earned), if the version has one": RECHECK_MB,
        "files that wait for their decoding, twice while they are read": megabytes(
            2 * (MAX_ENCODED_BYTES + settings.max_image_bytes)
        ),
        "images in the decode threads": megabytes(threads * CHEAP_PX * CHEAP_PX_BYTES),
        "the file of a costly image, twice while it is read": megabytes(2 * settings.max_image_bytes),
        "the decoder process and its copy of the file": DECODER_MB + megabytes(settings.max_image_bytes),
        "the costly image": megabytes(settings.max_decode_bytes),
    }
    archive = {
        "files read for the [archive](../docs/archive.md), where `archive_dir` is set, twice while they are read": (
            megabytes(2 * (READ_BYTES + settings.max_image_bytes))
        ),
        "results that wait for the archive": megabytes(MAX_WAITING_BYTES / RESULT_WEIGHT),
        "the process that writes the archive, and its copy of the file": (
            WRITER_MB + megabytes(settings.max_image_bytes)
        ),
    }
    together, more = sum(rows.values()), sum(archive.values())
    return rows | {"together": together} | archive | {"together, with an archive": together + more}


def test_the_table_says_what_is_shipped() -> None:
    section = (DEPLOY / "README.md").read_text().partition("## Memory of a worker")[2]
    rows = re.findall(r"^\| ([^|]+) \| (\d+) \|", section, re.MULTILINE)
    assert {what: int(mb) for what, mb in rows} == shipped()


def test_a_worker_stays_below_its_limit() -> None:
    assert shipped()["together"] <= MOST_MB
    assert shipped()["together, with an archive"] <= MOST_MB_WITH_ARCHIVE
    assert read_compose()["services"]["worker"]["deploy"]["resources"]["limits"]["memory"] == "1g"
    (pod,) = [item for item in read_documents("kubernetes/worker.yaml") if item["kind"] == "Deployment"]
    (container,) = pod["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["memory"] == "1Gi"
    assert MOST_MB * 1e6 < 0.83 * GIB
    assert MOST_MB_WITH_ARCHIVE * 1e6 < 0.92 * GIB


def test_the_largest_picture_in_the_largest_file_can_be_decoded() -> None:
    """At 8 bytes a pixel: as it is stored and as it is converted."""
    settings = Settings()
    assert 8 * settings.max_image_px + 2 * settings.max_image_bytes <= settings.max_decode_bytes
