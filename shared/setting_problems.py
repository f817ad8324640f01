"""What a problem with a setting is called: where its value comes from, and which name may be meant."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from typing import Any

from pydantic import ValidationError

from shared.closest_name import closest_name
from shared.masking import masked_setting, masked_text
from shared.settings_file import CONFIG_VARIABLE, config_file, file_values
from shared.validation_messages import describe_problem, quoted

ENV_PREFIX = "SORTLINE_"

# Kubernetes sets such variables in each container, for each service: SORTLINE_WORKER_PORT=tcp://10.0.0.1:9108.
_KUBERNETES_VARIABLE = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$", re.I)
_KUBERNETES_VALUE = re.compile(r"(tcp|udp|sctp)://")


def origin(name: str, flags: dict[str, Any]) -> str:
    """Where a setting's effective value comes from: flag, environment, file or default."""
    if flags.get(name) is not None:
        return "flag"
    variable = ENV_PREFIX + name.upper()
    if any(key.upper() == variable for key in os.environ):
        return f"environment {variable}"
    if name in file_values():
        return str(config_file())
    return "default"


def misspelled_variables(names: Collection[str]) -> list[str]:
    """Return a sentence about each environment variable that looks like a setting but isn't one of `names`.

    Such a variable is not an error: others may set variables for a service that is named `sortline`, as Kubernetes
    does.
    """
    known = {ENV_PREFIX + name.upper() for name in names} | {CONFIG_VARIABLE}
    return [
        f"{variable} is set but is not a setting: {_advice(variable, names, remove='unset it', prefix=ENV_PREFIX)}"
        for variable, value in sorted(os.environ.items())
        if variable.upper().startswith(ENV_PREFIX)
        and variable.upper() not in known
        and not (_KUBERNETES_VARIABLE.search(variable) or _KUBERNETES_VALUE.match(value))
    ]


def describe(error: ValidationError, flags: dict[str, Any], names: Collection[str]) -> str:
    """One line for each setting of `names` that was refused, or whose name is unknown."""
    lines = []
    for problem in error.errors():
        name = str(problem["loc"][0]) if problem["loc"] else "settings"
        if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1:
            advice = _advice(name, names, remove="remove it")
            place = "load_settings() was given" if name in flags else f"{config_file()} sets"
            lines.append(f"{place} {name!r}, which is not a setting: {advice}")
            continue
        where = ".".join(str(part) for part in problem["loc"]) or name
        value = _shown(problem["input"], name)
        lines.append(f"setting {where} = {value} (from {origin(name, flags)}): {describe_problem(problem)}.")
    return "\n".join(lines)


def _shown(value: object, name: str) -> str:
    """The value in quotes, without the secrets in it."""
    if name in ("redis_url", "model_store") and not isinstance(value, str):
        return quoted(value)  # a list or table is only hinted at: its parts may be secrets
    if "PRIVATE KEY" in str(value):  # in the place of the public one in trusted_keys
        return "***"
    return masked_text(repr(masked_setting(name, value)))


def _advice(name: str, names: Collection[str], *, remove: str, prefix: str = "") -> str:
    """What to do about a name that is not a setting. `prefix` is that of the environment variables, if it is one."""
    close = closest_name(name[len(prefix) :].lower(), names)
    if close is None:
        return f"{remove}; docs/settings.md lists all settings."
    return f"did you mean {prefix + close.upper() if prefix else close}?"
