"""The public names of Sortline: submit images, wait for their results, handle the errors.

    from sortline import LineProducer, load_settings, wait_for

Each name is imported from its package when it is first used: `import sortline` itself loads none of numpy, redis or
TensorFlow. The command line is `sortline.cli`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from producer.results import Answer, iter_results, wait_for
    from producer.submit import Frame, LineProducer, PreparedJob
    from shared.errors import (
        BadImage,
        BadInput,
        BadJob,
        BadSetting,
        CommandRefused,
        NotFound,
        QueueFull,
        RedisUnavailable,
        ResultGone,
        ResultTimeout,
        SortlineError,
        Transient,
    )
    from shared.schemas import ImageJob, Label, ModelRef, Outcome, SortResult, Timings
    from shared.settings import Settings, load_settings
else:
    from shared.lazy_names import lazy_names

    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "producer.results": ("Answer", "iter_results", "wait_for"),
            "producer.submit": ("Frame", "LineProducer", "PreparedJob"),
            "shared.errors": (
                "BadImage",
                "BadInput",
                "BadJob",
                "BadSetting",
                "CommandRefused",
                "NotFound",
                "QueueFull",
                "RedisUnavailable",
                "ResultGone",
                "ResultTimeout",
                "SortlineError",
                "Transient",
            ),
            "shared.schemas": ("ImageJob", "Label", "ModelRef", "Outcome", "SortResult", "Timings"),
            "shared.settings": ("Settings", "load_settings"),
        },
    )

__all__ = [
    "Answer",
    "BadImage",
    "BadInput",
    "BadJob",
    "BadSetting",
    "CommandRefused",
    "Frame",
    "ImageJob",
    "Label",
    "LineProducer",
    "ModelRef",
    "NotFound",
    "Outcome",
    "PreparedJob",
    "QueueFull",
    "RedisUnavailable",
    "ResultGone",
    "ResultTimeout",
    "Settings",
    "SortResult",
    "SortlineError",
    "Timings",
    "Transient",
    "iter_results",
    "load_settings",
    "wait_for",
]
