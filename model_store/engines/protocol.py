"""The protocol of an engine, and the engines' names. Imports none of them."""

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
        """How many threads may be in `predict` at once. As many should be, to keep the hardware busy."""

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        """Run each of these batch sizes at least once, so that the first real batch is as fast as later ones."""

    def predict(self, batch: Images, *, on_ready_for_next: Callable[[], None] | None = None) -> Floats:
        """Probabilities, float32 [N, C], of N >= 1 C-contiguous uint8 RGB images [S, S, 3], in one array or in many.

        `on_ready_for_next` is called when the engine could begin the batch of another caller before this one's end. Not
        sooner, so that the items of the next batch are chosen as late as possible.

        Releases the interpreter lock while the model runs. The answer is the caller's to keep.

        Raises:
            EngineFailed: the model raised, or its answer is not N rows of C finite numbers.
        """
