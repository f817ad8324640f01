"""The protocol of an engine, and the engines' names. Imports no engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from shared.arrays import Floats
    from shared.images.arrays import Images

EngineName = Literal["litert", "litert-fp32", "tensorflow", "tensorflow-mixed"]
EngineKind = Literal["auto", "litert", "litert-fp32", "tensorflow", "tensorflow-mixed"]


class Engine(Protocol):
    """A loaded model. At most `max_concurrency` threads may use it at a time."""

    @property
    def name(self) -> EngineName:
        """The name that results and metrics show."""

    @property
    def input_size_px(self) -> int:
        """S of the images' shape [N, S, S, 3]."""

    @property
    def classes_count(self) -> int:
        """C of the answers' shape [N, C]."""

    @property
    def max_concurrency(self) -> int:
        """How many threads may call `predict` at once. Exactly that many should, to keep the hardware busy."""

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        """Run each of these batch sizes at least once, so that the first real batch is as fast as later ones."""

    def predict(self, batch: Images, *, on_ready_for_next: Callable[[], None] | None = None) -> Floats:
        """Compute the probabilities, float32 [N, C], of N >= 1 images: uint8 RGB [S, S, 3], C-contiguous.

        The images lie in one array or in one array each. The engine may call `on_ready_for_next`, from any thread, when
        it could start another caller's batch before this one ends. It calls it no earlier, so that the images of the
        next batch are chosen as late as possible.

        Releases the interpreter lock while the model runs. The caller may keep the returned array.

        Raises:
            EngineFailed: the model raised, or its answer is not N rows of C finite numbers.
        """
