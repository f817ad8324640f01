"""Where settings come from, which source wins, and the errors of bad ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import BadSetting
from shared.images.decode_memory import MAX_DECODE_BYTES
from shared.images.decoding import MAX_BYTES, MAX_PX
from shared.policy_overrides import PolicyOverride
from shared.settings import Settings, config_file, environment, load_settings, masked, origin, unknown_variables


@pytest.fixture(autouse=True)
def _nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"SORTLINE_{name.upper()}", raising=False)
    monkeypatch.delenv("SORTLINE_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)


def test_flag_beats_environment_beats_file_beats_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().max_batch == Settings.model_fields["max_batch"].default
    assert origin("max_batch", {}) == "default"
    Path("sortline.toml").write_text("max_batch = 3\n")
    assert load_settings().max_batch == 3
    assert origin("max_batch", {}) == "sortline.toml"
    monkeypatch.setenv("SORTLINE_MAX_BATCH", "4")
    assert load_settings().max_batch == 4
    assert origin("max_batch", {}) == "environment SORTLINE_MAX_BATCH"
    assert load_settings(max_batch=5).max_batch == 5
    assert origin("max_batch", {"max_batch": 5}) == "flag"


def test_a_flag_that_was_not_given_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORTLINE_MAX_BATCH", "4")
    assert load_settings(max_batch=None).max_batch == 4
    assert origin("max_batch", {"max_batch": None}) == "environment SORTLINE_MAX_BATCH"


def test_a_flag_may_be_falsy() -> None:
    assert load_settings(linger_ms=0.0, metrics_port=0).linger_ms == 0
    assert origin("metrics_port", {"metrics_port": 0}) == "flag"


def test_sortline_config_names_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("sortline.toml").write_text("max_batch = 3\n")
    other = tmp_path / "plant.toml"
    other.write_text("max_batch = 7\n")
    monkeypatch.setenv("SORTLINE_CONFIG", str(other))
    assert config_file() == other
    assert load_settings().max_batch == 7
    assert origin("max_batch", {}) == str(other)


def test_a_config_file_that_is_named_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORTLINE_CONFIG", "nowhere.toml")
    with pytest.raises(BadSetting, match=r"nowhere\.toml"):
        load_settings()


@pytest.mark.parametrize("content", [b"max_batch = = 3", b"model = '\xff\xfe'"])
def test_a_broken_file_is_named(content: bytes) -> None:
    Path("sortline.toml").write_bytes(content)
    with pytest.raises(BadSetting, match=r"sortline\.toml is not valid TOML"):
        load_settings()


def test_a_bad_value_is_named_with_its_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORTLINE_MAX_BATCH", "many")
    with pytest.raises(BadSetting, match=r"max_batch = 'many' \(from environment SORTLINE_MAX_BATCH\)"):
        load_settings()
    with pytest.raises(BadSetting, match=r"max_batch = 0 \(from flag\).*greater than or equal to 1"):
        load_settings(max_batch=0)


def test_every_bad_value_is_named_at_once() -> None:
    Path("sortline.toml").write_text('max_batch = "many"\nengine = "steam"\n')
    with pytest.raises(BadSetting) as caught:
        load_settings()
    assert "max_batch = 'many' (from sortline.toml)" in str(caught.value)
    assert "engine = 'steam' (from sortline.toml)" in str(caught.value)


def test_an_unknown_name_in_the_file_is_refused() -> None:
    Path("sortline.toml").write_text("max_bacth = 3\nsteam = 1\n")
    with pytest.raises(BadSetting) as caught:
        load_settings()
    assert "'max_bacth', which is not a setting: did you mean max_batch?" in str(caught.value)
    assert "'steam', which is not a setting: remove it; docs/settings.md lists all settings." in str(caught.value)


def test_an_unknown_keyword_is_refused_and_not_taken_for_the_files() -> None:
    Path("sortline.toml").write_text("max_batch = 3\n")
    with pytest.raises(BadSetting, match=r"^load_settings\(\) was given 'max_bacth', which is not a setting: did you"):
        load_settings(max_bacth=3)


def test_unknown_variables_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORTLINE_MAX_BATCH", "4")
    monkeypatch.setenv("SORTLINE_CONFIG", "sortline.toml")
    before = unknown_variables()
    monkeypatch.setenv("SORTLINE_MAX_BACTH", "4")
    assert unknown_variables() == sorted([*before, "SORTLINE_MAX_BACTH"])


@pytest.mark.parametrize("value", ['["redis://:hunter2@host"]', '{url = "redis://:hunter2@host"}'])
def test_a_bad_value_does_not_show_its_password(value: str) -> None:
    Path("sortline.toml").write_text(f"redis_url = {value}\n")
    with pytest.raises(BadSetting, match="redis_url") as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)


def test_settings_are_frozen_and_described() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().max_batch = 3  # type: ignore[misc]
    for name, field in Settings.model_fields.items():
        assert field.description, name


def test_the_decoders_own_limits_are_the_default_ones() -> None:
    settings = load_settings()
    assert (settings.max_image_bytes, settings.max_image_px) == (MAX_BYTES, MAX_PX)
    assert settings.max_decode_bytes == MAX_DECODE_BYTES


def test_derived_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/plant")
    settings = load_settings(queues=" live, bulk ,,", model_store="~/models", cache_dir="~/cache")
    assert settings.queue_names == ["live", "bulk"]
    assert settings.model_store_dir == Path("/home/plant/models")
    assert settings.cache_path == Path("/home/plant/cache")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("redis://:hunter2@host:6379/0", "redis://:***@host:6379/0"),
        ("rediss://plant:hunter2@host/1?ssl_cert_reqs=none", "rediss://plant:***@host/1?ssl_cert_reqs=none"),
        ("redis://:hun@ter2@host", "redis://:***@host"),
        ("redis://:hun/ter2#?@host", "redis://:***@host"),
        ("unix://plant:hunter2@/run/redis.sock", "unix://plant:***@/run/redis.sock"),
        ("redis://host?password=hunter2&db=1", "redis://host?password=***&db=1"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://plant@host", "redis://plant@host"),
        ("bottles@3", "bottles@3"),
        (16, 16),
    ],
)
def test_passwords_of_urls_are_masked(value: object, shown: object) -> None:
    assert masked(value) == shown


def test_a_line_may_have_its_own_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().policies == {}
    Path("sortline.toml").write_text('[policies."line-1"]\nthresholds = {"no cap" = 0.3}\nmanual_lane = "table-2"\n')
    override = PolicyOverride(thresholds={"no cap": 0.3}, manual_lane="table-2")
    assert load_settings().policies == {"line-1": override}
    assert origin("policies", {}) == "sortline.toml"
    # The environment's policies override the file's, field by field.
    monkeypatch.setenv("SORTLINE_POLICIES", '{"line-1": {"thresholds": {"no cap": 0.4}}, "line-2": {}}')
    changed = override.model_copy(update={"thresholds": {"no cap": 0.4}})
    assert load_settings().policies == {"line-1": changed, "line-2": PolicyOverride()}


def test_policies_are_shown_without_what_was_not_given() -> None:
    policies = {"line-1": PolicyOverride(lanes={"good": "a"}, uncertain_margin=0)}
    assert load_settings(policies=policies).model_dump(mode="json")["policies"] == {
        "line-1": {"lanes": {"good": "a"}, "uncertain_margin": 0}
    }


@pytest.mark.parametrize(
    ("table", "what"),
    [
        (
            '"line-1"]\nthresholds = {"no cap" = 1.3}',
            r"policies\.line-1\.thresholds\.no cap = 1\.3 \(from sortline\.toml\)",
        ),
        ('"line-1"]\nlane = {}', r"policies\.line-1\.lane = \{\} \(from sortline\.toml\)"),
        ('"line-1"]\nmanual_lane = ""', r"policies\.line-1\.manual_lane = ''"),
        ('"line-1"]\nuncertain_margin = 0.6', r"policies\.line-1\.uncertain_margin = 0\.6"),
        ('"line 1"]', r"policies\.line 1.*should match pattern"),
    ],
)
def test_a_bad_policy_is_named_in_full(table: str, what: str) -> None:
    Path("sortline.toml").write_text(f"[policies.{table}\n")
    with pytest.raises(BadSetting, match=what):
        load_settings()


def test_a_policy_in_the_environment_must_be_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORTLINE_POLICIES", "{line-1")
    with pytest.raises(BadSetting, match=r"\"policies\".*line 1 column 2.*Give it as JSON, or in sortline\.toml"):
        load_settings()


def test_another_process_comes_to_the_same_settings_by_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(
        redis_url="redis://:hunter2@plant/1",
        linger_ms=0.5,
        policies={"line-1": PolicyOverride(thresholds={"no cap": 0.3}, precedence=("no cap",))},
    )
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings


def test_an_archive_is_named_or_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/plant")
    assert load_settings().archive_path is None
    assert load_settings(archive_dir="~/archive").archive_path == Path("/home/plant/archive")
    monkeypatch.setenv("SORTLINE_ARCHIVE_DIR", "")  # what Compose passes on for a variable that is not set
    assert load_settings().archive_path is None


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("~no-such-user/archive", "there is no user 'no-such-user'; write the whole path"),
        ("/srv/ar\0chive", "a path must consist of printable characters"),
        ("/srv/ar\udcffchive", "a path must consist of printable characters"),
    ],
)
def test_a_path_that_can_not_exist_is_a_bad_setting(path: str, why: str) -> None:
    with pytest.raises(BadSetting) as caught:
        load_settings(archive_dir=path)
    assert str(caught.value).startswith("setting archive_dir = ") and why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_outcomes_that_are_archived_are_known_ones() -> None:
    settings = load_settings(archive_outcomes="uncertain, rejected,,late")
    assert settings.archive_outcome_names == ["uncertain", "rejected", "late"]
    with pytest.raises(
        BadSetting,
        match=r"archive_outcomes = 'late,unsure' \(from flag\).*'unsure' is not an outcome; use any of uncertain",
    ):
        load_settings(archive_outcomes="late,unsure")
