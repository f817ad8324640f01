"""Summarizes a version as text, for `models show` and the page of the report.

In: a manifest. Out: titled lists of (name, value), and the table of classes, all as text. Reads no other file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from model_store.bundle.int8_gate import int8_refusal_reason
from model_store.bundle.manifest import MANIFEST_CROPS, Manifest
from model_store.bundle.policy import DEFAULT_THRESHOLD, GOOD
from shared.images.crop_regions import ANY_CAMERA, Fit

NOTHING = "-"
MEASURED_COLUMNS = ("class", "precision", "recall", "F1", "average precision", "images", "threshold")
CLASS_COLUMNS = (*MEASURED_COLUMNS, "lane")
# With more classes than this, only those that occurred are shown.
MAX_CLASSES = 40
_FITS: dict[Fit, str] = {"stretch": "squashed to a square", "pad": "padded with their border to a square"}

# The names of the metrics of `evaluation.metrics` in texts for people.
METRIC_TITLES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "map": "mean average precision",
    "exact_match": "exact match",
    "ece": "ECE",
    "uncertain": "uncertain",
    "sure_accuracy": "accuracy of the others",
    "sure_exact_match": "exact match of the others",
    "known_share": "labels that are known",
}
# The names of `manifest.parity`, which compares the exports with the trained model, and int8 with fp32.
_PARITY_TITLES = {
    "saved_model_max_difference": "SavedModel: largest difference of a probability",
    "fp32_max_difference": "fp32: largest difference of a probability",
    "int8_max_difference": "int8: largest difference of a probability",
    "views": "int8: compared on so many views of the images too",
    "int8_alone_labels_agreement": "int8 without rechecks: same decided labels as fp32",
    "int8_rechecked": "int8: share of images that fp32 rechecks",
    "int8_class_agreement": "int8: same most probable class as fp32",
    "int8_labels_agreement": "int8: same decided labels as fp32",
    "int8_sure_disagreement": "int8: other labels than fp32, both sure",
    "fp32_macro_f1": "fp32: macro F1 on these images",
    "int8_macro_f1": "int8: macro F1 on these images",
}
# The names of `training.settings` where the key alone does not say enough. The key `tuning` has a second list.
_SETTING_TITLES = {
    "learning_rate": "head learning rate",
    "decays": "head learning rate falls to zero",
    "views": "versions of each image, augmented ones included",
    "standardised": "features are standardized",
    "class_weights": "rare classes weigh more",
    "best_epoch": "weights of the best epoch are kept",
    "patience": "head stops after epochs without improvement",
    "canvas": "size of the crop",
}
_TUNING_TITLES = {
    "head_learning_rate": "learning rate of the head",
    "largest_gradient": "largest norm of the gradient",
    "own_statistics": "own statistics of batch normalization",
}


@dataclass(frozen=True)
class SummarySection:
    """A titled list of names and values."""

    title: str
    rows: tuple[tuple[str, str], ...]


def format_score(value: float | None) -> str:
    """A share or probability with three decimals."""
    return NOTHING if value is None else f"{value:.3f}"


def format_delta(difference: float | None) -> str:
    """A difference of two scores; one that rounds to zero is +0.000."""
    return NOTHING if difference is None else f"{difference:+z.3f}"


def format_time(at: float) -> str:
    """UTC epoch seconds as text."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


def summary_sections(manifest: Manifest) -> list[SummarySection]:
    """Everything except the table of classes; sections without rows are left out."""
    found = [
        SummarySection("Model", _model(manifest)),
        SummarySection("Metrics", overall_rows(manifest.metrics)),
        SummarySection("Calibration", _calibration(manifest)),
        SummarySection("Exports", _exports(manifest)),
        SummarySection("Policy", _policy(manifest)),
        SummarySection("Training", _training(manifest)),
        SummarySection("Dataset", _dataset(manifest)),
        SummarySection("Origin", _origin(manifest)),
    ]
    return [section for section in found if section.rows]


def overall_rows(metrics: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The metrics of a manifest over all images; empty when nothing was measured."""
    shown = [(title, format_score(metrics[name])) for name, title in METRIC_TITLES.items() if name in metrics]
    return (
        (*shown, ("images", f"{metrics['images']:,} of the validation, not trained on"))
        if "images" in metrics
        else tuple(shown)
    )


def class_rows(manifest: Manifest) -> list[tuple[str, ...]]:
    """A row of CLASS_COLUMNS per class; of more than MAX_CLASSES only those that occurred, if any."""
    measured: Mapping[str, Any] = manifest.metrics.get("per_class", {})
    scores = {name: {"threshold": _threshold(manifest, name)} | measured.get(name, {}) for name in manifest.classes}
    return [(*row, manifest.policy.lanes[row[0]]) for row in measured_rows(scores)]


def measured_rows(per_class: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A row of MEASURED_COLUMNS per class; of more than MAX_CLASSES only those that occurred, if any."""
    many = len(per_class) > MAX_CLASSES
    return [
        _measured_row(name, scores)
        for name, scores in per_class.items()
        if not many or scores.get("support") or scores.get("given")
    ]


def gate_verdict(manifest: Manifest) -> str:
    """Whether CPUs run int8 by default, and if not, the reason."""
    compared = "int8_labels_agreement" in manifest.parity
    reason = int8_refusal_reason(manifest.parity) if compared else None
    if manifest.cpu_engine == "litert":
        same = ": it gives the same labels as fp32" if compared and reason is None else ""
        rechecked = manifest.parity.get("int8_rechecked")
        rechecks = f", which rechecks {rechecked:.0%} of the images" if same and rechecked else ""
        return f"int8 (litert){same}{rechecks}"
    return f"fp32 (litert-fp32): {reason}" if reason else "fp32 (litert-fp32)"


def _threshold(manifest: Manifest, name: str) -> float | None:
    if manifest.mode == "multi" and name == GOOD:
        return None
    return manifest.policy.thresholds.get(name, DEFAULT_THRESHOLD)


def _measured_row(name: str, scores: Mapping[str, Any]) -> tuple[str, ...]:
    formatted = [format_score(scores.get(column)) for column in ("precision", "recall", "f1", "average_precision")]
    support, threshold = scores.get("support"), scores.get("threshold")
    return (
        name,
        *formatted,
        NOTHING if support is None else f"{support:,}",
        NOTHING if threshold is None else f"{threshold:.2f}",
    )


def _model(manifest: Manifest) -> tuple[tuple[str, str], ...]:
    several = "every label that applies" if manifest.mode == "multi" else "one label per image"
    names = f": {', '.join(manifest.classes)}" if len(manifest.classes) <= MAX_CLASSES else ""
    return (
        ("mode", f"{manifest.mode}: {several}"),
        ("classes", f"{len(manifest.classes):,}{names}"),
        ("images", f"{manifest.input_size_px} x {manifest.input_size_px} px, {_FITS[manifest.fit]}"),
        *((f"part of {_camera(name)}", str(manifest.regions[name])) for name in sorted(manifest.regions)),
        ("on CPUs", gate_verdict(manifest)),
        *_recheck_rows(manifest),
    )


def _recheck_rows(manifest: Manifest) -> tuple[tuple[str, str], ...]:
    if not manifest.int8_recheck_margin:
        return ()
    return (("fp32 rechecks int8", f"if a decision is closer than {manifest.int8_recheck_margin:.2f} logits"),)


def _camera(name: str) -> str:
    return "any other camera" if name == ANY_CAMERA else f"camera {name}"


def _calibration(manifest: Manifest) -> tuple[tuple[str, str], ...]:
    calibration = manifest.calibration
    if calibration is None:
        return ()
    if not calibration.is_applied:
        return (
            ("applied", "no: out of fold, calibration did not improve the probabilities"),
            ("expected calibration error (ECE)", format_score(calibration.ece_before)),
            ("images", f"{calibration.images:,}"),
        )
    return (
        ("expected calibration error (ECE) before", format_score(calibration.ece_before)),
        ("ECE after, out of fold (slightly too good: the lower was chosen)", format_score(calibration.ece_after)),
        ("images", f"{calibration.images:,}"),
        ("scale of the logits", _numbers(calibration.scale)),
        ("shift of the logits", _numbers(calibration.shift)),
    )


def _exports(manifest: Manifest) -> tuple[tuple[str, str], ...]:
    shown = []
    for name, value in manifest.parity.items():
        title = _PARITY_TITLES.get(name, name.replace("_", " "))
        if name == "images":
            shown.append((title, _compared_images(round(value), validation=manifest.dataset.validation)))
        elif name == "views":
            shown.append((title, f"{value:,.0f}"))
        elif name.endswith("difference"):
            shown.append((title, f"{value:.1e}"))
        else:
            shown.append((title, format_score(value)))
    return tuple(shown)


def _compared_images(count: int, *, validation: int) -> str:
    """Which images the exports were compared on. Without a training, `validation` is 0."""
    if not validation:
        return f"{count:,}, not used to calibrate"
    held_out = f" and {count - validation:,} held out" if count > validation else ""
    return f"{count:,}, not trained on: {validation:,} of the validation{held_out}"


def _policy(manifest: Manifest) -> tuple[tuple[str, str], ...]:
    policy = manifest.policy
    rows = [
        ("lane of uncertain bottles", policy.manual_lane),
        ("lane of bottles that must not be ejected", policy.unsorted_lane),
    ]
    if manifest.mode == "multi":
        rows.append(("uncertain margin", f"{policy.uncertain_margin:g}"))
    if len(manifest.classes) <= MAX_CLASSES:
        rows.append(("precedence", " > ".join(policy.precedence)))
    return tuple(rows)


def _training(manifest: Manifest) -> tuple[tuple[str, str], ...]:
    training = manifest.training
    own = {"seed": training.seed, "epochs": training.epochs, "batch size": training.batch_size}
    settings = dict(training.settings)
    tuning: dict[str, Any] = settings.pop("tuning", None) or {}
    shown = own | {"fine-tuning": training.fine_tune} | dict(_setting(*each) for each in settings.items())
    for name, value in tuning.items():
        shown[f"fine-tuning {_TUNING_TITLES.get(name, name.replace('_', ' '))}"] = value
    return tuple((name, _text(value)) for name, value in shown.items())


def _setting(name: str, value: Any) -> tuple[str, Any]:
    """A setting of the training in today's words: manifests keep the names that older readers know."""
    crops = {stored: crop for crop, stored in MANIFEST_CROPS.items()}
    match name, value:
        case "look", str():
            return "crop", crops.get(value, value)
        case "separation", dict():
            return "feature separability", {crops.get(crop, crop): score for crop, score in value.items()}
        case "objective", str():
            return name, value.replace("sure", "confidence")
        case "best_epochs", dict():
            return "epochs kept", {phase: _kept_epoch(number) for phase, number in value.items()}
    return _SETTING_TITLES.get(name, name.replace("_", " ")), value


def _kept_epoch(number: int | None) -> str:
    """`Phase.best_epoch`, which counts from 0, as people count: from 1."""
    if number is None:
        return "the last"
    return str(number + 1) if number >= 0 else "none"


def _dataset(manifest: Manifest) -> tuple[tuple[str, str], ...]:
    data = manifest.dataset
    if not data.images:
        return ()  # an imported model, which was not trained here
    rows = [("images", f"{data.images:,}: {data.train:,} to train, {data.validation:,} to validate")]
    if data.per_label and len(data.per_label) <= MAX_CLASSES:
        rows.append(("per label", ", ".join(f"{name} {count:,}" for name, count in data.per_label.items())))
    return (*rows, ("fingerprint", data.fingerprint))


def _origin(manifest: Manifest) -> tuple[tuple[str, str], ...]:
    backbone = manifest.backbone
    packages = ", ".join(f"{name} {version}" for name, version in manifest.training.packages.items())
    rows = [
        ("made", format_time(manifest.created_at)),
        ("parent", NOTHING if manifest.parent is None else f"{manifest.name}@{manifest.parent}"),
        ("backbone", f"{backbone.handle}, {backbone.feature_width:,} features"),
        ("backbone's SHA-256", backbone.sha256),
    ]
    return (*rows, ("packages", packages)) if packages else tuple(rows)


def _numbers(values: tuple[float, ...]) -> str:
    if len(set(values)) == 1:
        return f"{values[0]:.3f}"
    return ", ".join(f"{value:.3f}" for value in values[:MAX_CLASSES])


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        texts = [_text(each) for each in value]
        # Sentences are joined by spaces, words by commas.
        return (" " if all(text.endswith(".") for text in texts) else ", ").join(texts)
    return f"{value:g}" if isinstance(value, float) else str(value)
