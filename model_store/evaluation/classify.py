"""Classifies image files with the decoder, engine and policy that workers use, without a queue.

In: paths. Out: one Classified per file, in order. Called by `sortline classify`.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from model_store.bundle.files import Bundle
from model_store.bundle.policy import Decision, decide
from model_store.bundle.preprocessing import ImageDecoder, decoder_of
from model_store.datasets.dataset_files import IMAGE_SUFFIXES
from shared.errors import BadImage, BadInput
from shared.file_kind import FileKind, kind_of
from shared.file_walk import TooManyFiles, walk
from shared.images.crop_regions import ANY_CAMERA
from shared.printable import printable
from shared.regular_files import read_start
from shared.settings import Settings
from shared.system_files import LeftOut

if TYPE_CHECKING:
    from model_store.engines.protocol import Engine
    from shared.images.arrays import Pixels


@dataclass(frozen=True, slots=True)
class Classified:
    """The result for one file: a decision, or an error.

    `best` are the most probable classes as (label, probability), whatever the policy decided.
    """

    path: Path
    decision: Decision | None = None
    best: tuple[tuple[str, float], ...] = ()
    error: str | None = None

    @property
    def name(self) -> str:
        """The path in a form that can be printed and written."""
        return printable(self.path)


def find_images(paths: Iterable[Path]) -> Iterator[Path]:
    """The files among `paths`, and the images at any depth in the folders among them, in order.

    In a folder, images are recognized by their suffix, and hidden files and folders and those of the system are left
    out with a note, as by `upload` and datasets. A file that is itself among `paths` is always tried. A folder that
    can't be read, or has no images, is yielded itself, and later reported as an error.

    Raises:
        BadInput: a folder holds too many files.
    """
    for path in paths:
        if _is_folder(path):
            unreadable: list[OSError] = []
            left_out = LeftOut()
            folders = walk(path, on_error=unreadable.append, on_left_out=left_out.add)
            images = [file for files in folders for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
            left_out.tell(path)
            if too_many := [error for error in unreadable if isinstance(error, TooManyFiles)]:
                raise BadInput(f"{printable(path)}: {too_many[0].strerror}.")
            yield from [*images, *(Path(error.filename) for error in unreadable)] or [path]
        else:
            yield path


def _is_folder(path: Path) -> bool:
    try:
        return kind_of(path) is FileKind.FOLDER
    except OSError:  # whoever reads it will say why
        return False


def classify_files(
    paths: Iterable[Path],
    *,
    bundle: Bundle,
    engine: Engine,
    settings: Settings,
    camera: str = ANY_CAMERA,
    top: int = 0,
) -> Iterator[Classified]:
    """Classify files, `settings.max_batch` at a time; the result of an unusable file is its error.

    Args:
        camera: the camera that took the images; the model may have a crop region per camera.
        top: the number of classes in `best`.

    Raises:
        EngineFailed: the model failed on a batch.
    """
    remaining = iter(paths)
    decoder = decoder_of(bundle.manifest, settings)
    while group := list(islice(remaining, settings.max_batch)):
        images = [_read(path, decoder, camera) for path in group]
        usable = [image for image in images if isinstance(image, np.ndarray)]
        probabilities = iter(engine.predict(np.stack(usable)).tolist() if usable else ())
        for path, image in zip(group, images, strict=True):
            if isinstance(image, str):
                yield Classified(path, error=image)
            else:
                yield _classified(path, next(probabilities), bundle=bundle, top=top)


def _read(path: Path, decoder: ImageDecoder, camera: str) -> Pixels | str:
    """The decoded image, or the error."""
    try:
        if kind_of(path) is FileKind.FOLDER:
            os.scandir(path).close()  # raises if the folder can't be read
            return f"no images in this folder (looked for {', '.join(sorted(IMAGE_SUFFIXES))})"
        return decoder(read_start(path, max_bytes=decoder.max_bytes), camera)
    except OSError as error:
        return f"can't be read: {error.strerror}"
    except BadImage as error:
        return str(error)


def _classified(path: Path, probabilities: list[float], *, bundle: Bundle, top: int) -> Classified:
    manifest = bundle.manifest
    best = heapq.nlargest(top, zip(manifest.classes, probabilities, strict=True), key=itemgetter(1))
    decision = decide(probabilities, manifest.classes, mode=manifest.mode, policy=manifest.policy)
    return Classified(path, decision, tuple(best))
