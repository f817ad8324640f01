"""A line's own policy, from the settings to the result."""

from __future__ import annotations

import pytest
import redis

from shared.errors import BadSetting
from shared.policy_overrides import PolicyOverride
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import ToneEngine, frame, picture


def with_policies(settings: Settings, **policies: PolicyOverride) -> Settings:
    return settings.model_copy(update={"policies": policies})


def test_each_line_is_sorted_by_its_own_policy(settings: Settings, client: redis.Redis, own_signals: None) -> None:
    strict = PolicyOverride(thresholds={"no cap": 0.9}, lanes={"no cap": "reject"}, manual_lane="table-2")
    for line in ("l1", "l2"):
        for red in (204, 230, 255):  # P(no cap) = 0.8, 0.9 and a bit, 1
            kit.submit(settings, frame(picture(red), line=line, frame_id=red))
    assert kit.run_service(with_policies(settings, l2=strict), ToneEngine()) == 0

    def decisions(line: str) -> dict[object, tuple[str, bool]]:
        return {result.frame_id: (result.lane, result.uncertain) for result in kit.stream(client, line)}

    assert decisions("l1") == dict.fromkeys((204, 230, 255), ("no-cap", False))
    assert decisions("l2") == {204: ("table-2", True), 230: ("table-2", True), 255: ("reject", False)}


def test_a_worker_does_not_start_with_a_policy_that_its_model_cannot_have(
    settings: Settings, own_signals: None
) -> None:
    wrong = with_policies(settings, l2=PolicyOverride(thresholds={"no kap": 0.9}))
    with pytest.raises(BadSetting, match=r"policies\.l2\.thresholds: 'no kap' = 0\.9 is not a class of tone@3"):
        kit.run_service(wrong, ToneEngine())
