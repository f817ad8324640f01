"""Where settings come from, which source wins, and the errors of bad ones."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from shared.errors import BadSetting
from shared.images.decode_memory import MAX_DECODE_BYTES
from shared.images.decoding import MAX_BYTES, MAX_PX
from shared.policy_overrides import PolicyOverride
from shared.setting_problems import origin
from shared.settings import Settings, environment, load_settings, misspelled_variables
from shared.settings_file import config_file
from tests.irregular_files import make_sparse_file


@pytest.fixture(autouse=True)
def _nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("SORTLINE_")]:
        monkeypatch.delenv(name)
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


@pytest.mark.timeout(60)  # a pipe that is opened waits for ever
def test_a_file_that_is_a_pipe_or_too_large_is_named() -> None:
    os.mkfifo("sortline.toml")
    with pytest.raises(BadSetting, match=r"sortline\.toml.*not a regular file"):
        load_settings()
    os.unlink("sortline.toml")
    make_sparse_file(Path("sortline.toml"))
    with pytest.raises(BadSetting, match=r"sortline\.toml.*more than 10,000,000 bytes"):
        load_settings()


@pytest.mark.parametrize("content", [b"max_batch = = 3", b"model = '\xff\xfe'"])
def test_a_broken_file_is_named(content: bytes) -> None:
    Path("sortline.toml").write_bytes(content)
    with pytest.raises(BadSetting, match=r"sortline\.toml is not valid TOML"):
        load_settings()


def test_a_bad_value_is_named_with_its_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORTLINE_MAX_BATCH", "many")
    with pytest.raises(BadSetting, match=r"'many' \(from environment SORTLINE_MAX_BATCH\): should be a whole number\."):
        load_settings()
    with pytest.raises(BadSetting, match=r"max_batch = 0 \(from flag\): should be at least 1\."):
        load_settings(max_batch=0)
    with pytest.raises(
        BadSetting, match=r"sample_bits = 7 \(from flag\): use the number of bits that the camera gives"
    ):
        load_settings(sample_bits=7)


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
    assert misspelled_variables() == []
    monkeypatch.setenv("SORTLINE_MAXBATCH", "4")
    monkeypatch.setenv("sortline_steam", "4")
    assert misspelled_variables() == [
        "SORTLINE_MAXBATCH is set but is not a setting: did you mean SORTLINE_MAX_BATCH?",
        "sortline_steam is set but is not a setting: unset it; docs/settings.md lists all settings.",
    ]


def test_variables_of_kubernetes_for_a_service_of_this_name_are_not_misspelled(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SORTLINE_WORKER_SERVICE_HOST": "10.0.0.1",
        "SORTLINE_WORKER_SERVICE_PORT": "9108",
        "SORTLINE_WORKER_SERVICE_PORT_METRICS": "9108",
        "SORTLINE_WORKER_PORT": "tcp://10.0.0.1:9108",
        "SORTLINE_WORKER_PORT_9108_TCP": "tcp://10.0.0.1:9108",
        "SORTLINE_WORKER_PORT_9108_TCP_ADDR": "10.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    assert misspelled_variables() == []
    monkeypatch.setenv("SORTLINE_METRIC_PORT", "9109")
    assert len(misspelled_variables()) == 1


def test_a_file_from_a_windows_editor_is_read() -> None:
    Path("sortline.toml").write_bytes(b"\xef\xbb\xbfmax_batch = 3\r\nqueues = 'live'\r\n")
    assert (load_settings().max_batch, load_settings().queues) == (3, "live")
    assert origin("max_batch", {}) == "sortline.toml"


def test_a_file_that_cant_be_read_is_named() -> None:
    Path("sortline.toml").write_bytes("max_batch = 3\n".encode("utf-16"))
    with pytest.raises(BadSetting, match=r"sortline\.toml is not valid TOML: it is not UTF-8.*Save it as UTF-8"):
        load_settings()


def test_an_empty_home_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not stand for the root folder."""
    monkeypatch.setenv("HOME", "")
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    settings = load_settings(model_store="~/models", cache_dir="~/cache", state_dir="~/state", archive_dir="~/archive")
    assert settings.model_store_dir == home / "models"
    assert (settings.cache_path, settings.state_path) == (home / "cache", home / "state")
    assert settings.archive_path == home / "archive"


@pytest.mark.parametrize("variable", ["", None])
@pytest.mark.parametrize("folder", ["~", "~nobody-of-this-name"])
def test_a_missing_home_folder_is_an_error_that_names_the_setting(
    monkeypatch: pytest.MonkeyPatch, folder: str, variable: str | None
) -> None:
    """A container may run under a user that it does not know."""
    if variable is None:
        monkeypatch.delenv("HOME", raising=False)
    else:
        monkeypatch.setenv("HOME", variable)
    monkeypatch.setattr("pwd.getpwuid", _no_user)
    settings = load_settings(model_store=f"{folder}/models", cache_dir=f"{folder}/cache", state_dir=f"{folder}/state")
    with pytest.raises(BadSetting, match=rf"model_store = '{folder}/models' begins with a home folder, and user"):
        _ = settings.model_store_dir
    with pytest.raises(BadSetting, match=rf"cache_dir = '{folder}/cache' begins with"):
        _ = settings.cache_path
    with pytest.raises(BadSetting, match=rf"state_dir = '{folder}/state' begins with"):
        _ = settings.state_path
    with pytest.raises(BadSetting, match=r"there is no user 'nobody|user \d+ has no home folder; write the whole path"):
        load_settings(archive_dir=f"{folder}/archive")


def _no_user(uid: int) -> None:
    raise KeyError(uid)


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
        ('"line 1"]', r"policies\.line 1.*use 1 to 64 letters"),
    ],
)
def test_a_bad_policy_is_named_in_full(table: str, what: str) -> None:
    Path("sortline.toml").write_text(f"[policies.{table}\n")
    with pytest.raises(BadSetting, match=what):
        load_settings()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x", "'x' is not JSON (Expecting value: line 1 column 1 (char 0))"),
        ("", "'' is not JSON (Expecting value: line 1 column 1 (char 0))"),
        (
            "{line-1",
            "'{line-1' is not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))",
        ),
    ],
)
@pytest.mark.parametrize("variable", ["SORTLINE_POLICIES", "sortline_policies"])
def test_a_policy_in_the_environment_must_be_json(
    variable: str, text: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(BadSetting) as raised:
        load_settings()
    assert str(raised.value) == f"SORTLINE_POLICIES = {told}. Give it as JSON, or set it in sortline.toml."


def test_values_that_are_nested_too_deeply_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    told = r"SORTLINE_POLICIES, SORTLINE_BELTS or a value in sortline\.toml is nested too deeply"
    monkeypatch.setenv("SORTLINE_POLICIES", "[" * 50_000)
    with pytest.raises(BadSetting, match=told):
        load_settings()
    monkeypatch.delenv("SORTLINE_POLICIES")
    Path("sortline.toml").write_text("policies = " + "[" * 50_000)
    with pytest.raises(BadSetting, match=told):
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


def test_space_around_the_url_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that was made from a file often ends with a newline."""
    monkeypatch.setenv("SORTLINE_REDIS_URL", " redis://host:6379/0\r\n")
    assert load_settings().redis_url == "redis://host:6379/0"


def test_a_settings_file_that_is_not_a_file_is_not_passed_over() -> None:
    Path("sortline.toml").symlink_to("/no/such/file")
    with pytest.raises(BadSetting, match=r"sortline\.toml can't be read: No such file"):
        load_settings()
    Path("sortline.toml").unlink()
    Path("sortline.toml").mkdir()
    with pytest.raises(BadSetting, match=r"sortline\.toml is a folder.*Docker"):
        load_settings()
