"""The feeder's ledger says what the server has acknowledged and refused, and nothing of what it can't know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from producer import LineProducer
from producer.frames import PreparedJob
from shared.errors import QueueFull, RedisUnavailable
from shared.settings import Settings
from torture.history.ledger import Ledger, read_ledger
from torture.plant.feeder import Feeder, FeederOptions


class ScriptedProducer(LineProducer):
    """Prepares as the real one, but answers calls of `send` by a script; then tells the feeder to end."""

    def __init__(self, settings: Settings, *answers: Exception | None) -> None:
        super().__init__(settings)
        self._answers = list(answers)
        self.feeder: Feeder | None = None

    def send(self, jobs: Sequence[PreparedJob], *, partial: bool = False) -> None:
        answer = self._answers.pop(0)
        if not self._answers:
            assert self.feeder is not None
            self.feeder.is_told_to_end = True
        if answer is not None:
            raise answer


def feed(settings: Settings, folder: Path, *answers: Exception | None) -> Ledger:
    """The ledger of a feeder that sends one image a burst, and whose calls get these answers."""
    producer = ScriptedProducer(settings, *answers)
    path = folder / "ledger"
    feeder = Feeder(FeederOptions(burst=1), producer=producer, ledger=path, camera="camera-1", seed=1)
    producer.feeder = feeder
    feeder.run()
    return read_ledger([path])


def full() -> QueueFull:
    return QueueFull("no room", accepted=())


AWAY = RedisUnavailable("the answer was lost")


@pytest.mark.parametrize(
    ("answers", "accepted", "refused"),
    [
        ([None], 1, 0),
        ([full()], 0, 1),
        ([AWAY], 0, 0),
        ([AWAY, None], 1, 0),
        # The call whose answer was lost may have enqueued the image.
        ([AWAY, full()], 0, 0),
    ],
    ids=["acknowledged", "refused", "lost", "sent again", "refused after a lost answer"],
)
def test_the_ledger_says_no_more_than_is_known(
    settings: Settings, tmp_path: Path, answers: list[Exception | None], accepted: int, refused: int
) -> None:
    ledger = feed(settings, tmp_path, *answers)
    assert (len(ledger.submissions), len(ledger.accepted), len(ledger.refused)) == (1, accepted, refused)


def test_an_acknowledgement_has_the_times_of_its_own_call(settings: Settings, tmp_path: Path) -> None:
    ledger = feed(settings, tmp_path, AWAY, None)
    ((job_id, call),) = ledger.accepted.items()
    assert ledger.submissions[job_id].captured_at < call.sent_at <= call.answered_at
