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
from shared.regular_files import read_start
from shared.setting_problems import origin

MAX_PASSWORD_BYTES = 4096

# The names of the settings.
PASSWORD, FILE = "redis_password", "redis_password_file"


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
        raise _conflict(given, PASSWORD, FILE, mend=f"Give one of them: unset {PASSWORD}, or {FILE}.")
    name = FILE if given.password is None else PASSWORD
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


def usable_password(text: str) -> str:
    """The password without the ends of lines after it, which editors and `echo` write.

    Raises:
        ValueError: it can't be a password; the text says why, and does not quote it.
    """
    password = text.rstrip("\r\n")
    if not password:
        raise ValueError("is empty: write the password into it")
    if not password.isprintable():
        raise ValueError("should be one line of printable characters: the password alone")
    return password


def read_password(file: Path, *, where: str) -> str:
    """The password that a file holds. `where` says in errors who named which file.

    Raises:
        BadSetting: the file can't be used.
    """
    try:
        data = read_start(file, max_bytes=MAX_PASSWORD_BYTES)
    except OSError as error:
        raise BadSetting(
            f"{where}: it can't be read: {error.strerror}. Name a file that this user may read, and that holds the "
            "password alone."
        ) from error
    if len(data) > MAX_PASSWORD_BYTES:
        raise BadSetting(f"{where}: it holds more than {MAX_PASSWORD_BYTES:,} bytes: write the password alone into it.")
    try:
        return usable_password(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadSetting(f"{where}: it is not UTF-8 ({error.reason}). Save it as UTF-8.") from None
    except ValueError as error:
        raise BadSetting(f"{where}: the file {error}.") from None


def _has_password(redis_url: str) -> bool:
    """Whether it has one after its user, escaped or not, or as an option."""
    rest = redis_url.partition("://")[2]
    return bool(rest.rpartition("@")[0].partition(":")[2]) or re.search("[?&]password=.", rest) is not None


def _conflict(given: GivenPassword, *names: str, mend: str) -> BadSetting:
    first, second = (f"{name} (from {origin(name, given.flags)})" for name in names)
    return BadSetting(f"{first} and {second} both hold the password of the Redis server. {mend}")


def _of_setting(path: Path, flags: dict[str, Any]) -> str:
    file = expand_home(path, name=FILE)
    return read_password(file, where=f"setting {FILE} = {str(file)!r} (from {origin(FILE, flags)})")
