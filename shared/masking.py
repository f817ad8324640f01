"""Hides passwords, tokens and keys in everything that is shown, logged, raised or recorded.

    masked(value)                   a value, e.g. a handle; if it begins as a URL, the whole of it is one
    masked_setting(name, value)     the value of a setting
    masked_url(url)                 the same for what should be a URL, and may lack even its scheme
    masked_text(text, secrets)      a text that may quote URLs, e.g. an exception's
    secrets_of(url)                 the texts that must not be shown of a URL: libraries quote pieces of it
    secrets_in_logs(url)            those of them that a log hides wherever they stand

Imports only the standard library, because a worker's small parent process uses this module too. Nothing here uses
`urlsplit`: it takes a part of a password with an unescaped `/`, `#` or `?` for the path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator

MASK = "***"

# In these URLs an @ always ends the login. A user alone may be a password that was written in the user's place.
_SERVER_SCHEMES = frozenset({"redis", "rediss", "valkey", "valkeys", "unix"})
# Options after ? or # whose values are no secrets. All other values are masked.
_HARMLESS_OPTIONS = frozenset(
    {
        *("db", "username", "client_name", "protocol"),
        *("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"),
        *("endpoint_url", "region", "region_name", "anon"),
        *("tf-hub-format", "scaling", "size", "sha256"),
    }
)
_OPTION_NAME = re.compile(r"[A-Za-z][\w.-]{0,63}")
# A port, and what follows it. Anything else after the colon may be a password whose host is missing.
_PORT = re.compile(r"\d*(?=[/?#]|$)")
# From the :// of a URL in a text to its end, with the @ of a login whose password is not escaped. Our own messages show
# the form of a URL, which has no secrets. The bounds keep the search linear.
_URL_IN_TEXT = re.compile(
    r"""://(?!\[user:password@\])
    (?: \S{0,4096}@
      | [^\s:/?\#@\[]* : (?! \d* (?: [/?\#\s'"<>`,;:.)] | $ ) | \*{3} ) [^\n]{1,256}@  # a password with blanks, no port
    )?
    [^\s'"<>`]*""",
    re.VERBOSE,
)
_SCHEME_BEFORE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*$")
_MAX_SCHEME_CHARACTERS = 32
_END_OF_SENTENCE = ".,;:!)]}"

# What separates the pieces of a URL that libraries quote, and the shortest pieces worth hiding: shorter ones are in
# every other word.
_SEPARATORS = re.compile(r"[:/?#@&=\[\]]")
_MIN_SECRET_CHARACTERS = 3
_MIN_PIECE_CHARACTERS = 4

# A log without these words could not be read, and would tell by its gaps what the password is. In a log, a secret that
# is one of them, or short, is masked in URLs only.
_WORDS_OF_LOGS = frozenset(
    {
        *("producer", "worker", "viewer", "reader", "admin", "default"),
        *("sortline", "server", "valkey", "password", "secret", "camera", "images", "bottle", "bottles", "models"),
    }
)
_MIN_CHARACTERS_IN_LOGS = 6


def masked(value: str) -> str:
    """The value with the secrets of a URL replaced by `***`, even if they are not properly escaped.

    Masked are passwords, users that stand alone, and the values of all options that are not known to be harmless.
    """
    if "://" not in value:
        return value
    return masked_url(value) if _is_scheme(value.partition("://")[0].strip()) else masked_text(value)


def masked_url(url: str) -> str:
    """As `masked`, for a text that should be a URL: without a scheme, all that precedes an @ is masked."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return f"{MASK}@{url.rpartition('@')[2]}" if "@" in url else url
    return f"{scheme}://{_masked_rest(scheme, rest)}"


def masked_setting(name: str, value: object) -> object:
    """The value of a setting as it may be shown."""
    if name == "redis_password" and value is not None:
        return MASK
    if not isinstance(value, str):
        return value
    return masked_url(value) if name == "redis_url" else masked(value)


def masked_text(text: str, secrets: Collection[str] = ()) -> str:
    """The text with the secrets of all URLs in it masked, and each of these `secrets` too, wherever it stands."""
    for secret in secrets:  # first, as the end of a URL can't be told if its password is not escaped
        text = text.replace(secret, MASK)
    return _URL_IN_TEXT.sub(_masked_match, text) if "://" in text else text


def secrets_of(url: str) -> tuple[str, ...]:
    """What must not be shown of a URL: its secrets, escaped and not, and the pieces of them; the longest first.

    For texts of libraries, which quote a part of a URL as a host, bucket, port or path. A secret that is the user's
    name too is none of them: with the name masked, a text would tell what the password is.
    """
    scheme, separator, rest = url.partition("://")
    found: set[str] = set()
    for secret in _raw_secrets(scheme, rest if separator else url):
        whole = _unescaped(secret)
        found |= _escaped(text for text in whole if len(text) >= _MIN_SECRET_CHARACTERS)
        pieces = (piece for text in whole for piece in _SEPARATORS.split(text))
        found |= {piece for piece in pieces if len(piece) >= _MIN_PIECE_CHARACTERS}
    return tuple(sorted(found - {MASK, _user_of(url)}, key=lambda text: (-len(text), text)))


def secrets_in_logs(url: str) -> tuple[str, ...]:
    """Those of `secrets_of` that are hidden in every line of a log: not what is a part of ordinary lines."""
    return tuple(secret for secret in secrets_of(url) if not _is_weak(secret))


def has_weak_password(url: str) -> bool:
    """Whether the URL has a password that a log can't hide wherever it stands, only in URLs."""
    if (user := _user_of(url)) is None:
        return False
    scheme, _, rest = url.partition("://")
    password = str(_split_login(scheme, rest)[0]).partition(":")[2]
    return any(text == user or _is_weak(text) for text in _unescaped(password))


def _is_weak(secret: str) -> bool:
    return len(secret) < _MIN_CHARACTERS_IN_LOGS or secret.lower() in _WORDS_OF_LOGS


def _user_of(url: str) -> str | None:
    """The user of a URL with a password; "" if only the password is there."""
    scheme, _, rest = url.partition("://")
    login = _split_login(scheme, rest)[0]
    return None if login is None else _shown_user(login)


def _unescaped(secret: str) -> set[str]:
    """The secret as it stands in a URL, and what it may mean."""
    from urllib.parse import unquote, unquote_plus  # imported here: the parent process has no need of it

    return {secret, unquote(secret), unquote_plus(secret)}


def _escaped(texts: Iterable[str]) -> set[str]:
    """The secrets as they are, escaped for a URL, Python and JSON, and without their tabs: so libraries quote them."""
    from urllib.parse import quote, quote_plus

    found: set[str] = set()
    for text in texts:
        found |= {text, quote(text, errors="replace"), quote(text, safe="", errors="replace")}
        found |= {quote_plus(text, errors="replace"), re.sub(r"[\t\r\n]", "", text)}
        found |= {repr(text)[1:-1], repr(f'"{text}')[2:-1]}  # the same within a text that also has a double quote
        found |= {repr(text.encode(errors="replace"))[2:-1]}
        found |= {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
    return found


def _masked_match(found: re.Match[str]) -> str:
    before = found.string[max(0, found.start() - _MAX_SCHEME_CHARACTERS) : found.start()]
    scheme = _SCHEME_BEFORE.search(before)
    rest = found[0].removeprefix("://")
    url = rest.rstrip(_END_OF_SENTENCE)
    return f"://{_masked_rest(scheme[0] if scheme else '', url)}{rest[len(url) :]}"


def _masked_rest(scheme: str, rest: str) -> str:
    """What follows the :// of a URL, masked."""
    login, place = _split_login(scheme, rest)
    if login is not None:
        user = _shown_user(login)
        return f"{MASK if user is None else f'{user}:{MASK}'}@{_with_masked_options(place)}"
    if (host := _host_before_password(place)) is not None:
        return f"{host}:{MASK}"
    return _with_masked_options(place)


def _split_login(scheme: str, rest: str) -> tuple[str | None, str]:
    """The login (None if there is none), and what follows it. The last @ ends it, as a password may hold others."""
    login, at, place = rest.rpartition("@")
    if not at:
        return None, rest
    start = re.split("[/?#]", rest, maxsplit=1)[0]
    host, colon, port = start.partition(":")
    if scheme.lower() in _SERVER_SCHEMES or (colon and not _is_address(host, port, start)):
        return login, place
    if "@" in start:  # other URLs may have an @ in their paths
        return start.rpartition("@")[0], rest[start.rindex("@") + 1 :]
    return None, rest


def _is_address(host: str, port: str, start: str) -> bool:
    """Whether the part of a URL before its path is a host with a port, rather than the beginning of a login."""
    return "@" not in start and port.isdigit() and (host == "localhost" or "." in host or host.startswith("["))


def _shown_user(login: str) -> str | None:
    """The user, if it is followed by a password and so can't be one."""
    user, _, password = login.partition(":")
    return user if password and not re.search("[@/?#]", user) else None


def _host_before_password(place: str) -> str | None:
    """The host if what follows its colon is not a port: it may be a password without @ and host."""
    start = re.split("[/?#]", place, maxsplit=1)[0]
    host, colon, _ = start.partition(":")
    if not colon or host.startswith("[") or _PORT.match(place, len(host) + 1):
        return None
    return host


def _with_masked_options(place: str) -> str:
    """Host and path, with the options after ? and # masked, e.g. `?db=1&password=***`."""
    path, options = _split_options(place)
    shown = [path]
    for separator, name, value, is_secret in _options(options):
        text = MASK if is_secret else value
        if name:
            text = f"{name}={text}"
        elif is_secret and shown[-1].endswith(MASK):
            continue  # the secret before goes on
        shown.append(separator + text)
    return "".join(shown)


def _split_options(place: str) -> tuple[str, str]:
    """Host and path, and what follows them, with its ? or #."""
    path = re.split("[?#]", place, maxsplit=1)[0]
    return path, place[len(path) :]


def _options(options: str) -> Iterator[tuple[str, str, str, bool]]:
    """The separator before each option, its name, its value, and whether that is a secret.

    If a whole option may be a secret, or a part of the one before it, which may hold a separator, it has no name.
    """
    is_secret_before = False
    for separator, option in re.findall("([?#&;])([^?#&;]*)", options):
        name, equals, value = option.partition("=")
        if not option or (equals and _is_harmless(name, value)):
            yield separator, name, value, False
            continue
        has_name = equals and _OPTION_NAME.fullmatch(name) and (not is_secret_before or name.lower() == "password")
        yield (separator, name, value, True) if has_name else (separator, "", option, True)
        is_secret_before = True


def _is_harmless(name: str, value: str) -> bool:
    return name.lower() in _HARMLESS_OPTIONS and "@" not in value and "%40" not in value


def _raw_secrets(scheme: str, rest: str) -> Iterator[str]:
    login, place = _split_login(scheme or "redis", rest)
    if login is not None:
        user = _shown_user(login)
        yield login if user is None else login[len(user) + 1 :]
    elif (host := _host_before_password(place)) is not None:
        yield place[len(host) + 1 :]
        return
    for _, name, value, is_secret in _options(_split_options(place)[1]):
        if is_secret:
            yield from (value,) if name else value.partition("=")


def _is_scheme(text: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", text))
