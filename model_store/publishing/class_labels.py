"""Class labels: the names of a ready-made classifier's outputs, from a text file with one name per line.

In: a file or URL, and the number of outputs. Out: distinct names, usable as classes of a model, and notes on what was
changed. `ImageNetLabels.txt`, the file for TF-Hub's classifiers, needs changes: it has 1,001 lines, of which the first
is `background`, and it lists `crane` and `maillot` twice each. Names of ImageNet's classes also ship with Sortline.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from model_store.backbones.download import download
from model_store.runtime.progress import ProgressSteps
from model_store.runtime.scratch import scratch_folder
from shared.errors import BadSetting
from shared.home_folder import expand_home
from shared.masking import masked
from shared.regular_files import read_regular

BACKGROUND = "background"
# In place of a file: the names that ship with Sortline. class_names/README.md says where they are from.
IMAGENET = "imagenet"
_IMAGENET_FILE = Path(__file__).with_name("class_names") / "imagenet.txt"
_IMAGENET_CLASSES = 1000
# ImageNet's longest label, synonyms included, has 121 characters.
_MAX_CHARACTERS = 200
_MAX_BYTES = 10_000_000


class ClassLabels(NamedTuple):
    """Distinct names, one per output, in the outputs' order; `notes` are sentences on what was changed."""

    names: tuple[str, ...]
    notes: tuple[str, ...]


def read_labels(location: str, *, steps: ProgressSteps, insecure_http: bool = False) -> tuple[str, ...]:
    """The lines of the file or URL `location`, without blank ones at the end; IMAGENET is the file that ships.

    Raises:
        BadSetting: the file can't be read, or a line can't be a name; says which. Or it is an http:// URL, and
            `insecure_http` is false.
        NotFound: the URL can't be downloaded.
    """
    if location == IMAGENET:
        return _lines(_IMAGENET_FILE, location)
    if location.lower().startswith(("http://", "https://")):
        if location.lower().startswith("http://") and not insecure_http:
            raise BadSetting(
                f"--labels {masked(location)}: anyone on the way can change what an http:// URL serves. Give an "
                "https:// URL or a file, or allow it with --insecure-http."
            )
        with scratch_folder("sortline-labels-") as scratch:
            file = scratch / "labels.txt"
            download(location, file, steps=steps, max_bytes=_MAX_BYTES)
            return _lines(file, masked(location))
    return _lines(expand_home(location, name="labels"), location)


def labels_for(lines: Sequence[str], *, outputs: int, location: str) -> ClassLabels:
    """Match the lines to the outputs.

    Raises:
        BadSetting: there are more or fewer lines than outputs (ImageNet's background may be missing or extra).
    """
    names, notes = list(lines), []
    if (len(names), outputs) == (_IMAGENET_CLASSES, _IMAGENET_CLASSES + 1):
        names.insert(0, BACKGROUND)
        notes.append(f"{location} has 1,000 labels, but the classifier 1,001 outputs: `{BACKGROUND}` was put in front.")
    elif (len(names), outputs, names[:1]) == (_IMAGENET_CLASSES + 1, _IMAGENET_CLASSES, [BACKGROUND]):
        del names[0]
        notes.append(f"{location} has 1,001 labels, but the classifier 1,000 outputs: `{BACKGROUND}` was left out.")
    if len(names) != outputs:
        raise BadSetting(
            f"--labels {location} has {len(names):,} lines, but the classifier has {outputs:,} outputs. Give the file "
            "that belongs to this classifier, with one name per line."
        )
    distinct = _distinct(names)
    if renamed := [f"`{after}`" for before, after in zip(names, distinct, strict=True) if before != after]:
        notes.append(f"{location} repeats names; the later ones became {', '.join(renamed)}.")
    return ClassLabels(tuple(distinct), tuple(notes))


def _lines(file: Path, location: str) -> tuple[str, ...]:
    try:
        text = read_regular(file, max_bytes=_MAX_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise BadSetting(f"--labels {location} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise BadSetting(f"--labels {location} is not UTF-8 text: {error}.") from error
    lines = [line.strip() for line in text.rstrip().split("\n")]
    for number, line in enumerate(lines, start=1):
        if not line or not line.isprintable() or len(line) > _MAX_CHARACTERS:
            raise BadSetting(
                f"--labels {location}, line {number}: {line[:80]!r} can't be a name. A name has 1 to {_MAX_CHARACTERS} "
                "printable characters."
            )
    return tuple(lines)


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, made distinct: a second `crane` becomes `crane (2)`."""
    taken, seen, found = set(names), Counter[str](), []
    for name in names:
        seen[name] += 1
        distinct = name
        while seen[name] > 1 and distinct in taken:
            distinct = f"{name} ({seen[name]})"
            seen[name] += distinct in taken
        taken.add(distinct)
        found.append(distinct)
    return found
