"""The password of the Redis server, given apart from its URL: the settings `redis_password` and `redis_password_file`.

In: the settings as they were given. Out: the URL with the password in it, percent-encoded, which is all that the rest
of Sortline, its child processes and RQ need. Called by `settings` when it loads them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from shared.errors import BadSetting
from shared.home_folder import expand_home
from shared.secret_files import read_secret
from shared.setting_problems import origin

# The names of the settings.
PASSWORD_SETTING, PASSWORD_FILE_SETTING = "redis_password", "redis_password_file"


class GivenPassword(NamedTuple):
    """What the settings say about the server's login, and the flags among them."""

    redis_url: str
    password: str | None
    file: Path | None
    flags: dict[str, Any]


def url_with_password(given: GivenPassword) -> str:
    """`redis_url` with the password that was given beside it; unchanged if there is none.

    The URL keeps its user; without one the password is that of the server's user `default`.

    Raises:
        BadSetting: the file can't be used, or more than one of the three settings has a password.
    """
    if given.password is None and given.file is None:
        return given.redis_url
    if given.password is not None and given.file is not None:
        mend = f"Give one of them: unset {PASSWORD_SETTING}, or {PASSWORD_FILE_SETTING}."
        raise _conflict(given, PASSWORD_SETTING, PASSWORD_FILE_SETTING, mend=mend)
    name = PASSWORD_FILE_SETTING if given.password is None else PASSWORD_SETTING
    password = given.password if given.file is None else _of_setting(given.file, given.flags)
    assert password is not None  # one of the two is there
    scheme, separator, rest = given.redis_url.partition("://")
    if _has_password(given.redis_url):
        raise _conflict(given, "redis_url", name, mend=f"Take it out of redis_url, or unset {name}.")
    login, _, place = rest.rpartition("@")
    user = login.partition(":")[0]
    if not separator or re.search("[@/?#]", user):
        return given.redis_url  # `shared.server.connection` refuses it, and says why
    return f"{scheme}://{user}:{quote(password, safe='')}@{place}"


def _has_password(redis_url: str) -> bool:
    """Whether it has one after its user, escaped or not, or as an option."""
    rest = redis_url.partition("://")[2]
    return bool(rest.rpartition("@")[0].partition(":")[2]) or re.search("[?&]password=.", rest) is not None


def _conflict(given: GivenPassword, *names: str, mend: str) -> BadSetting:
    first, second = (f"{name} (from {origin(name, given.flags)})" for name in names)
    return BadSetting(f"{first} and {second} both hold the password of the Redis server. {mend}")


def _of_setting(path: Path, flags: dict[str, Any]) -> str:
    name = PASSWORD_FILE_SETTING
    file = expand_home(path, name=name)
    return read_secret(file, where=f"setting {name} = {str(file)!r} (from {origin(name, flags)})")
