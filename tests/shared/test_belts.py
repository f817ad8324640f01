"""Belts: the deadline that follows from speed and way, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.belts import MAX_BELT_M_S, MAX_EJECTOR_M, MIN_BELT_M_S, MIN_EJECTOR_M, Belt
from shared.clock import MAX_DEADLINE_S
from shared.errors import BadSetting
from shared.settings import load_settings


def test_the_deadline_is_the_way_divided_by_the_speed() -> None:
    belt = Belt(belt_m_s=3.0, ejector_m=0.45)
    assert belt.deadline_ms == pytest.approx(150.0)
    assert str(belt) == "0.45 m at 3 m/s"


def test_every_belt_gives_a_deadline_that_a_job_may_have() -> None:
    slowest = Belt(belt_m_s=MIN_BELT_M_S, ejector_m=MAX_EJECTOR_M)
    fastest = Belt(belt_m_s=MAX_BELT_M_S, ejector_m=MIN_EJECTOR_M)
    assert 0 < fastest.deadline_ms < slowest.deadline_ms <= MAX_DEADLINE_S * 1000


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("belt_m_s = 0\nejector_m = 1", "setting belts.line-1.belt_m_s = 0"),
        ("belt_m_s = 101\nejector_m = 1", "should be at most 100"),
        ("belt_m_s = 3\nejector_m = nan", "setting belts.line-1.ejector_m = nan"),
        ("belt_m_s = 3", "ejector_m"),
        ("belt_m_s = 3\nejector_m = 1\nspeed = 2", "setting belts.line-1.speed = 2"),
    ],
)
def test_a_belt_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, named: str
) -> None:
    (tmp_path / "sortline.toml").write_text(f'[belts."line-1"]\n{text}\n')
    monkeypatch.setenv("SORTLINE_CONFIG", str(tmp_path / "sortline.toml"))
    with pytest.raises(BadSetting, match="belts") as raised:
        load_settings()
    assert named in str(raised.value)
