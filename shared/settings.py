"""All settings, in one class.

A command's flag overrides the environment (`SORTLINE_…`), which overrides `sortline.toml`, which overrides the
default. `SORTLINE_CONFIG` names a file to read instead of `./sortline.toml`.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field, SecretStr, TypeAdapter, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from shared import setting_problems
from shared.belts import Belt
from shared.comma_lists import split_list
from shared.errors import BadSetting
from shared.home_folder import expand_home, usable_path, with_home
from shared.jobs import MAX_ATTEMPTS, MAX_LOSSES
from shared.masking import masked_setting
from shared.policy_overrides import PolicyOverride
from shared.public_keys import PREFIX, PublicKey
from shared.redis_password import PASSWORD_FILE_SETTING, PASSWORD_SETTING, GivenPassword, url_with_password
from shared.schemas import UNCERTAIN, Name, Outcome
from shared.secret_files import usable_secret
from shared.setting_problems import ENV_PREFIX
from shared.settings_file import check_config_file, config_file, file_values
from shared.validation_messages import quoted

# Ten years. Data that is kept longer belongs elsewhere, and Redis refuses expiry times far above this.
MAX_TTL_S = 315_360_000

# Each check is two small reads from the store, which may be remote.
MIN_STORE_POLL_S = 0.2

# Flags for a server that has no password, whatever the environment and the settings file say: an embedded one.
NO_PASSWORD: Mapping[str, str] = MappingProxyType({PASSWORD_SETTING: "", PASSWORD_FILE_SETTING: ""})


class Settings(BaseSettings):
    """The effective settings of one process. Make them with `load_settings`; docs/settings.md explains each one.

    Once they are loaded, `redis_url` has the server's password, wherever it was given.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True)

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0", description="URL of the Redis or Valkey server that holds the queues"
    )
    redis_password: SecretStr | None = Field(
        None, description="password for `redis_url`, if neither it nor a file has one"
    )
    redis_password_file: Path | None = Field(
        None, description="file that holds nothing but the password for `redis_url`, e.g. a mounted secret"
    )
    model_store: str = Field(
        "~/.local/share/sortline/models", description="folder or URL (s3://bucket/models) of the published models"
    )
    cache_dir: Path = Field(
        Path("~/.cache/sortline"), description="folder for backbones, cached features, and models fetched from a URL"
    )
    state_dir: Path = Field(
        Path("~/.local/state/sortline"),
        description="folder in which folder cameras record, across restarts, the files they sent",
    )
    model: str = Field(
        "bottles",
        description="model to serve: NAME or NAME@VERSION; if unset, `bottles`, or else the only one in the store",
    )
    store_poll_s: float = Field(
        2.0,
        ge=0,
        le=3600,
        description="seconds between a worker's checks of the model store for a new version; 0: no checks",
    )
    trusted_keys: str = Field(
        "",
        description="public keys, or files with one per line: versions must be signed by one of them; empty: none must",
    )
    engine: Literal["auto", "litert", "litert-fp32", "tensorflow", "tensorflow-mixed"] = Field(
        "auto", description="what runs the model; auto: TensorFlow if it sees a GPU, else LiteRT"
    )
    policies: dict[Name, PolicyOverride] = Field(
        {}, description="by line, the parts of the model's policy that the line overrides; see docs/settings.md"
    )
    belts: dict[Name, Belt] = Field(
        {},
        description="by line, the speed of the belt and the way to the ejector, for deadlines; see docs/settings.md",
    )
    queues: str = Field("live,bulk", description="queues to work on, most urgent first")
    max_batch: int = Field(16, ge=1, le=1024, description="maximum number of images in one batch")
    bulk_share: float = Field(
        0.05,
        ge=0,
        le=0.5,
        description="share of claims, decoding and the model's time for the queues after the first while it has jobs",
    )
    linger_ms: float = Field(
        0.0, ge=0, le=10_000, description="milliseconds that an idle model waits for more images to fill its batch"
    )
    decode_threads: int = Field(0, ge=0, description="threads that decode images; 0: one per usable core")
    engine_threads: int = Field(0, ge=0, description="threads of the engine; 0: one per usable core")
    tensorflow_xla: bool = Field(
        False, description="compile TensorFlow's model with XLA, once per batch size; for GPUs, far slower on CPUs"
    )
    result_cache_items: int = Field(
        10_000,
        ge=0,
        description="results kept in a worker's cache, so that identical images are not classified again; 0: none",
    )
    result_cache_queues: str = Field("bulk", description="queues whose results are cached")
    lease_s: int = Field(
        10,
        ge=2,
        description="maximum seconds from a worker's last renewal of its leases until its jobs go back to the queue",
    )
    stuck_after_s: float = Field(
        60.0,
        ge=1,
        description="seconds that one image or batch may take before the worker counts as stuck and gives up its jobs",
    )
    max_attempts: int = Field(
        3, ge=1, le=MAX_ATTEMPTS, description="times an image may fail in the worker before its job fails; at most 100"
    )
    max_losses: int = Field(
        20,
        ge=1,
        le=MAX_LOSSES,
        description="times a job may be lost with its worker, for unknown reasons, before it fails",
    )
    clock_tolerance_s: float = Field(
        5.0,
        ge=0,
        le=3600,
        description="seconds that a capture time may lie in the future; beyond that the job is refused",
    )
    result_ttl_s: int = Field(
        900, ge=1, le=MAX_TTL_S, description="seconds that RQ keeps a finished job and its result"
    )
    failure_ttl_s: int = Field(7 * 86400, ge=1, le=MAX_TTL_S, description="seconds that RQ keeps a failed job")
    image_ttl_s: int = Field(3600, ge=1, le=MAX_TTL_S, description="seconds that an image is kept until it is sorted")
    results_maxlen: int = Field(
        100_000, ge=1, description="number of results kept in each line's stream, approximately"
    )
    queue_max_items: int = Field(
        20_000, ge=1, description="maximum number of jobs waiting in one queue; beyond that producers get QueueFull"
    )
    queue_max_bytes: int = Field(
        500_000_000, ge=1, description="maximum size in bytes of the images that one queue has on the server"
    )
    queue_max_wait_s: float = Field(
        1800.0, gt=0, le=MAX_TTL_S, description="longest time in seconds that a new job may be expected to wait"
    )
    line_share: float = Field(
        0.5, gt=0, le=1, description="largest part of a queue's limits that one line may use; 1: all of it"
    )
    max_image_bytes: int = Field(20_000_000, ge=1, description="largest image file accepted, in bytes")
    max_image_px: int = Field(50_000_000, ge=1, description="largest image accepted, in pixels")
    max_decode_bytes: int = Field(
        440_000_000, ge=1, description="bytes of memory that all images being decoded may take together"
    )
    max_decode_s: float = Field(
        10.0,
        gt=0,
        description="seconds of processor time that decoding one image may take; beyond that the image is rejected",
    )
    sample_bits: int = Field(
        0,
        ge=0,
        le=16,
        description="bits used by samples in 16-bit PNG and TIFF, 8 to 16; 0: the model's own, or what each file says",
    )
    archive_dir: Path | None = Field(
        None, description="folder in which images are archived with their results; unset: no archive"
    )
    archive_share: float = Field(0.01, ge=0, le=1, description="share of all images that is archived")
    archive_outcomes: str = Field(
        "", description="outcomes whose images are all archived, e.g. uncertain,rejected,failed"
    )
    archive_max_bytes: int = Field(
        10_000_000_000,
        ge=1,
        description="maximum size of the archive in bytes; beyond that the oldest images are removed",
    )
    metrics_host: str = Field("127.0.0.1", description="address of /metrics, /healthz and /readyz")
    metrics_port: int = Field(9108, ge=0, le=65535, description="port of /metrics, /healthz and /readyz; 0: a free one")
    metrics_max_lines: int = Field(
        200,
        ge=1,
        le=10_000,
        description="maximum number of lines with their own metrics in a worker; the others are counted as `other`",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="lowest severity of the log lines that are shown"
    )
    log_format: Literal["text", "json"] = Field("text", description="format of the log lines")

    @field_validator("redis_url")
    @classmethod
    def _stripped(cls, value: str) -> str:
        return value.strip()  # a secret that was made from a file may end with a newline

    @field_validator("redis_password")
    @classmethod
    def _usable_password(cls, value: SecretStr | None) -> SecretStr | None:
        return None if value is None else SecretStr(usable_secret(value.get_secret_value()))

    @field_validator("trusted_keys")
    @classmethod
    def _keys_or_paths(cls, value: str) -> str:
        if value and not split_list(value):
            raise ValueError("it names no key, as if a variable in it were not set; leave it empty if none is wanted")
        for item in split_list(value):
            if item.startswith(PREFIX):
                PublicKey.parse(item)
            elif not item.isprintable() or item.startswith("-"):
                raise ValueError(f"give public keys ({PREFIX}…) or paths of files with one on each line")
        return value

    @field_validator("queues")
    @classmethod
    def _usable_queues(cls, value: str) -> str:
        if not split_list(value):
            raise ValueError("name at least one queue, e.g. live,bulk")
        return value

    @field_validator("queues", "result_cache_queues")
    @classmethod
    def _names_of_queues(cls, value: str) -> str:
        for name in split_list(value):
            TypeAdapter(Name).validate_python(name)
        return value

    @field_validator("archive_outcomes")
    @classmethod
    def _known_outcomes(cls, value: str) -> str:
        known = [UNCERTAIN, *Outcome]
        if unknown := [name for name in split_list(value) if name not in known]:
            raise ValueError(f"{unknown[0]!r} is not an outcome; use any of {', '.join(known)}")
        return value

    @field_validator("archive_dir", "redis_password", "redis_password_file", mode="before")
    @classmethod
    def _none_if_empty(cls, value: object) -> object:
        return None if value == "" else value  # Compose passes on an unset variable as an empty string

    @field_validator("archive_dir", "redis_password_file")
    @classmethod
    def _usable_path(cls, value: Path | None) -> Path | None:
        return None if value is None else usable_path(value)

    @field_validator("store_poll_s")
    @classmethod
    def _not_polled_too_often(cls, value: float) -> float:
        if 0 < value < MIN_STORE_POLL_S:
            raise ValueError(f"a store may be remote: use 0, or at least {MIN_STORE_POLL_S} s")
        return value

    @field_validator("sample_bits")
    @classmethod
    def _is_zero_or_at_least_eight(cls, value: int) -> int:
        if 0 < value < 8:
            raise ValueError("use the number of bits that the camera gives, 8 to 16, or 0")
        return value

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """The values for `repr`, which may end up in a log: secrets are masked."""
        return ((name, masked_setting(name or "", value)) for name, value in super().__repr_args__())

    @property
    def queue_names(self) -> list[str]:
        """`queues` as a list, most urgent first."""
        return split_list(self.queues)

    @property
    def result_cache_queue_names(self) -> list[str]:
        """`result_cache_queues` as a list."""
        return split_list(self.result_cache_queues)

    @property
    def model_store_dir(self) -> Path:
        """`model_store` as a local folder. Raises BadSetting if it begins with `~` and there is no home folder."""
        return expand_home(self.model_store, name="model_store")

    @property
    def cache_path(self) -> Path:
        """`cache_dir` with `~` resolved. Raises BadSetting if there is no home folder."""
        return expand_home(self.cache_dir, name="cache_dir")

    @property
    def state_path(self) -> Path:
        """`state_dir` with `~` resolved. Raises BadSetting if there is no home folder."""
        return expand_home(self.state_dir, name="state_dir")

    @property
    def archive_path(self) -> Path | None:
        """`archive_dir` with `~` resolved."""
        return None if self.archive_dir is None else with_home(self.archive_dir)

    @property
    def archive_outcome_names(self) -> list[str]:
        """`archive_outcomes` as a list."""
        return split_list(self.archive_outcomes)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, InitSettingsSource(settings_cls, file_values())


def load_settings(**flags: Any) -> Settings:
    """Load the settings of this process: flags, else the environment, else the settings file, else the defaults.

    Args:
        flags: settings by name, e.g. `redis_url=…`. None means that the flag was not given.

    Raises:
        BadSetting: a value can't be used. The message names the setting, its value and where the value comes from.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    path = config_file()
    try:
        check_config_file()
        return _with_password(Settings(**given), given)
    except tomllib.TOMLDecodeError as error:
        raise BadSetting(f"{path} is not valid TOML: {error}.") from error
    except UnicodeDecodeError as error:
        raise BadSetting(f"{path} is not valid TOML: it is not UTF-8 ({error.reason}). Save it as UTF-8.") from error
    except OSError as error:
        raise BadSetting(f"{path} can't be read: {error.strerror}.") from error
    except SettingsError as error:
        # Only tables are parsed as JSON, and only if they come from the environment. The message quotes the name.
        variable = ENV_PREFIX + str(error).split('"')[1].upper()
        value = next(text for name, text in os.environ.items() if name.upper() == variable)
        raise BadSetting(
            f"{variable} = {quoted(value)} is not JSON ({error.__cause__}). Give it as JSON, or set it in {path}."
        ) from error
    except RecursionError as error:
        raise BadSetting(
            f"{ENV_PREFIX}POLICIES, {ENV_PREFIX}BELTS or a value in {path} is nested too deeply."
        ) from error
    except ValidationError as error:
        raise BadSetting(setting_problems.describe(error, given, Settings.model_fields)) from error


def _with_password(settings: Settings, flags: dict[str, Any]) -> Settings:
    """The settings with the password in `redis_url`. The settings that gave it stay: `sortline config` shows them."""
    password = None if settings.redis_password is None else settings.redis_password.get_secret_value()
    given = GivenPassword(settings.redis_url, password, settings.redis_password_file, flags)
    return settings.model_copy(update={"redis_url": url_with_password(given)})


def environment(settings: Settings) -> dict[str, str]:
    """The environment variables with which `load_settings` in another process returns these settings.

    The password is in the URL of the server alone. The variables of the two settings that gave it are empty, so that
    those of this process, and the settings file's, don't count.
    """
    values = settings.model_dump(mode="json", exclude=set(NO_PASSWORD))
    return {
        ENV_PREFIX + name.upper(): json.dumps(value) if isinstance(value, dict) else str(value)
        for name, value in {**values, **NO_PASSWORD}.items()
        if value is not None
    }


def server_variables(settings: Settings) -> dict[str, str]:
    """The variables of `environment` that name the server, for a child that reads all other settings itself.

    Not for its arguments: everybody on the machine can read those.
    """
    names = [ENV_PREFIX + name.upper() for name in ("redis_url", *NO_PASSWORD)]
    return {name: value for name, value in environment(settings).items() if name in names}


def misspelled_variables() -> list[str]:
    """Return a sentence about each environment variable that looks like a setting but isn't one."""
    return setting_problems.misspelled_variables(Settings.model_fields)
