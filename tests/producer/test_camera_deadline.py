"""The deadline of a camera's frames: by the flags, or by the line's belt."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from producer.camera import Camera
from producer.camera_deadline import Deadline, choose_deadline
from producer.camera_options import WhenFull
from shared.belts import Belt
from shared.errors import BadSetting, Bound
from shared.settings import Settings, load_settings
from tests.producer.camera_kit import Frames, FullProducer, full_camera, options
from tests.worker import kit

BELTS = Settings(belts={"line-1": Belt(belt_m_s=2.0, ejector_m=0.5)})


def choose(
    settings: Settings = BELTS,
    line: str = "line-1",
    *,
    deadline_ms: float | None = None,
    belt_m_s: float | None = None,
    ejector_m: float | None = None,
) -> Deadline:
    return choose_deadline(settings, line, deadline_ms=deadline_ms, belt_m_s=belt_m_s, ejector_m=ejector_m)


def test_the_flags_of_the_belt_override_the_setting() -> None:
    deadline = choose(belt_m_s=3.0, ejector_m=0.45)
    assert deadline.ms == pytest.approx(150.0)
    assert deadline.source == "0.45 m at 3 m/s (--belt-m-s, --ejector-m)"


def test_a_deadline_in_milliseconds_overrides_the_setting() -> None:
    assert choose(deadline_ms=80.0) == Deadline(80.0, "set by --deadline-ms")


def test_without_flags_the_lines_belt_gives_the_deadline() -> None:
    assert choose() == Deadline(250.0, "0.5 m at 2 m/s (belts in default)")
    assert choose(line="line-2") == Deadline(None, "belts has no entry for line-2, but for line-1")


def test_where_the_belt_is_set_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SORTLINE_CONFIG", raising=False)
    (tmp_path / "sortline.toml").write_text('[belts."line-1"]\nbelt_m_s = 2\nejector_m = 0.5\n')
    assert choose(load_settings()).source.endswith("(belts in sortline.toml)")
    monkeypatch.setenv("SORTLINE_BELTS", '{"line-1": {"belt_m_s": 1, "ejector_m": 0.5}}')
    assert choose(load_settings()) == Deadline(500.0, "0.5 m at 1 m/s (belts in environment SORTLINE_BELTS)")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"belt_m_s": 3.0}, "--belt-m-s 3 needs --ejector-m too"),
        ({"ejector_m": 0.45}, "--ejector-m 0.45 needs --belt-m-s too"),
        ({"deadline_ms": 80.0, "ejector_m": 0.45}, "--ejector-m 0.45 needs --belt-m-s too"),
        (
            {"deadline_ms": 80.0, "belt_m_s": 3.0, "ejector_m": 0.45},
            r"--deadline-ms 80 and --belt-m-s 3 with --ejector-m 0.45 \(150 ms\) both give the deadline",
        ),
        ({"belt_m_s": 0.0, "ejector_m": 0.45}, "--belt-m-s 0 should be at least 0.01"),
        ({"belt_m_s": 3.0, "ejector_m": float("nan")}, "--ejector-m nan should be"),
        ({"deadline_ms": float("nan")}, "--deadline-ms nan is not a number"),
    ],
)
def test_flags_that_cannot_be_used_are_named_with_their_values(flags: dict[str, float], named: str) -> None:
    with pytest.raises(BadSetting, match=named):
        choose(**flags)


def test_encoder_counts_reach_the_result_untouched(
    client: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of frames that waited for a full queue."""
    producer = FullProducer(settings, {1: Bound.ITEMS, 2: Bound.LINE}, retry_after_s=0.3)
    change = {"encoder_per_frame": 125, "when_full": WhenFull.BLOCK, "line": "l1"}
    assert full_camera(monkeypatch, Frames(), producer, **change).run().accepted == 3
    kit.run_burst(settings)
    results = sorted(kit.stream(client), key=lambda result: str(result.frame_id))
    assert [(result.frame_id, result.encoder_count) for result in results] == [(0, 0), (1, 125), (2, 250)]


def test_the_belts_deadline_is_that_of_the_result(client: redis.Redis, settings: Settings) -> None:
    from producer.submit import LineProducer

    deadline = choose(settings, belt_m_s=0.01, ejector_m=100.0)  # far away, so that no machine is too slow for it
    chosen = options(line="l1", count=1, deadline_ms=deadline.ms)
    Camera(chosen, Frames(), LineProducer(settings)).run()
    kit.run_burst(settings)
    (result,) = kit.stream(client)
    assert result.deadline_margin_ms == pytest.approx(
        10_000_000 - 1000 * (result.finished_at - result.captured_at), abs=1.0
    )
