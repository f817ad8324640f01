"""Connections to the Redis server. Nothing here connects at import or on construction."""

from __future__ import annotations

import os
import re
import socket
import ssl
from typing import Any
from urllib.parse import parse_qs, urlsplit

import redis
from redis.connection import UnixDomainSocketConnection, parse_url

from shared.errors import BadSetting, RedisUnavailable
from shared.masking import MASK, masked_url
from shared.server.error_translation import server_errors, wants_no_tls

# Long enough for a stop-the-world save on the server, short enough to notice that it is gone.
SOCKET_TIMEOUT_S = 10.0
_CONNECT_TIMEOUT_S = 5.0
# For the check at a command's start: a person waits for it, and a TLS handshake with a port without TLS hangs.
_CHECK_TIMEOUT_S = 5.0
# The longest wait for a silent server to show whether it speaks TLS.
_TLS_PROBE_TIMEOUT_S = 2.0

# Options allowed after the ? in redis_url. The client library has others, which would change the form of its answers or
# its timeouts.
_OPTIONS = frozenset({"db", "username", "password", "client_name"})
_TLS_FILES = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
_TLS_OPTIONS = _TLS_FILES | {"ssl_ca_path", "ssl_cert_reqs", "ssl_check_hostname"}
_CERT_REQS = ("required", "optional", "none")


def connect(redis_url: str, *, socket_timeout_s: float = SOCKET_TIMEOUT_S) -> redis.Redis:
    """Make a client with a connection pool of its own. It connects on first use.

    RQ raises the socket timeout of any pool that it is given to minutes, so a thread that needs another timeout makes a
    client of its own.

    Raises:
        BadSetting: the URL can't be used.
    """
    options = _parsed(redis_url)
    if options.get("connection_class") is not UnixDomainSocketConnection:
        options["socket_keepalive"] = True
    pool = redis.ConnectionPool(
        **options,
        socket_timeout=socket_timeout_s,
        socket_connect_timeout=min(_CONNECT_TIMEOUT_S, socket_timeout_s),
        driver_info=None,  # else each connection sends CLIENT SETINFO, a right that not every server can grant
        health_check_interval=30,
    )
    return redis.Redis.from_pool(pool)


def check(client: redis.Redis, redis_url: str) -> None:
    """Check that the server answers, and that Sortline can work with it.

    A server that can't serve for now (loading, busy, unable to save) passes: the next call reports that.

    Raises:
        RedisUnavailable: the server can't be reached.
        BadSetting: the server refuses the login, has no such database, belongs to a cluster or is no Redis server, or
            only one of the server and redis_url uses TLS.
    """
    # Not through the pool, which tries twice and so takes twice as long when no server answers.
    connection: Any = client.connection_pool.make_connection()  # redis has no types here
    connection.socket_timeout = min(connection.socket_timeout, _CHECK_TIMEOUT_S)
    try:
        with server_errors(redis_url):
            connection.send_command("HELLO")  # unlike PING's, its answer says whether this is a cluster
            about = _pairs(connection.read_response())
    except (AttributeError, TypeError, ValueError) as error:  # the client doesn't check what the answer consists of
        raise BadSetting(
            f"the server at {masked_url(redis_url)} is not a Redis server: it can't answer HELLO. Correct redis_url."
        ) from error
    except RedisUnavailable as error:
        if isinstance(error.__cause__, (redis.exceptions.ResponseError, redis.exceptions.BusyLoadingError)):
            return
        _check_scheme(client.connection_pool.connection_kwargs, redis_url)
        raise
    finally:
        connection.disconnect()
    mode = about.get(b"mode", b"standalone").decode()
    if mode != "standalone":
        raise BadSetting(
            f"the Redis server at {masked_url(redis_url)} is in {mode} mode, which neither Sortline nor RQ supports. "
            "Point redis_url at a standalone server."
        )


def _pairs(answer: Any) -> dict[bytes, Any]:
    """Names and values of an answer as a dict; older servers and protocols give them as one flat list."""
    return answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))


def _parsed(redis_url: str) -> dict[str, Any]:
    """Check the URL; returns the client's arguments."""
    try:
        url = urlsplit(redis_url)
        names = parse_qs(url.query, keep_blank_values=True)
        options = dict(parse_url(redis_url))  # type: ignore[no-untyped-call]  # redis has no types here
        options.get("host", "").encode("idna")
    except ValueError:
        # The error's text is left out: it may quote a part of a password that is not escaped.
        raise _unusable(redis_url) from None
    is_unix = url.scheme == "unix"
    # With an unescaped / ? or # in the password, the part before that character is mistaken for the host, and the @ is
    # found in the path, query or fragment.
    is_misread = url.fragment or "@" in url.path + url.query or "," in (url.hostname or "")
    if is_misread or url.port == 0 or (is_unix and not url.path):  # the client would replace port 0 by 6379
        raise _unusable(redis_url)
    if is_unix and url.hostname:
        raise BadSetting(f"redis_url {masked_url(redis_url)!r} lacks a slash: write unix:///path/to/socket.")
    if not is_unix and not re.fullmatch(r"/?[0-9]*", url.path):
        raise BadSetting(
            f"redis_url {masked_url(redis_url)!r} ends with {url.path!r}: end it with the number of a database, "
            "e.g. /0."
        )
    for option in re.split("[&;]", url.query) if url.query else ():
        if "=" not in option:  # it may be a part of a password, so it is not named
            raise BadSetting(f"redis_url {masked_url(redis_url)!r}: write each option after the ? as NAME=VALUE.")
    _check_options(redis_url, {name: values[0] for name, values in names.items()}, is_tls=url.scheme == "rediss")
    return options


def _unusable(redis_url: str) -> BadSetting:
    return BadSetting(
        f"redis_url {masked_url(redis_url)!r} can't be used: write redis://[user:password@]host:port/db, rediss:// for "
        "TLS or unix:///path/to/socket?db=0, for one server. In the password write %2F for a /, %40 for an @, and so "
        "on, or give the password as it is, by redis_password_file."
    )


def _check_options(redis_url: str, options: dict[str, str], *, is_tls: bool) -> None:
    known = _OPTIONS | _TLS_OPTIONS if is_tls else _OPTIONS
    for name, value in options.items():
        if name not in known:
            shown = MASK if "password" in options else repr(name)  # it may be a part of a password with an &
            also = "" if is_tls or name not in _TLS_OPTIONS else " (TLS is rediss://)"
            raise BadSetting(
                f"redis_url {masked_url(redis_url)!r}: the option {shown} can't be set here{also}. "
                f"These can: {', '.join(sorted(known))}."
            )
        if not value or (name == "ssl_cert_reqs" and value not in _CERT_REQS):
            advice = f"use {', '.join(_CERT_REQS)}" if name == "ssl_cert_reqs" else "give it a value, or leave it out"
            raise BadSetting(f"redis_url {masked_url(redis_url)!r}: {name} = {value!r}: {advice}.")
        if name in _TLS_FILES and not os.path.isfile(value):
            raise BadSetting(
                f"redis_url {masked_url(redis_url)!r}: {name} = {value!r} is not a file, or its folder may not be "
                "searched."
            )

    if "ssl_keyfile" in options and "ssl_certfile" not in options:
        raise BadSetting(
            f"redis_url {masked_url(redis_url)!r}: ssl_keyfile is the key of a certificate: name that too "
            "(ssl_certfile=FILE)."
        )


def _check_scheme(options: dict[str, Any], redis_url: str) -> None:
    """Raise if only one side uses TLS. The client itself notices only silence or a closed connection."""
    url = urlsplit(redis_url)
    if url.scheme == "unix":
        return
    address = (options.get("host", "localhost"), options.get("port", 6379))
    at = f" at {masked_url(redis_url)}"
    try:
        with socket.create_connection(address, timeout=_TLS_PROBE_TIMEOUT_S) as plain:
            if url.scheme == "rediss":
                plain.sendall(b"PING\r\n")
                if plain.recv(1) in (b"+", b"-"):
                    raise wants_no_tls(at)
            elif _speaks_tls(plain):
                raise BadSetting(f"the Redis server{at} speaks TLS. Write rediss:// instead of redis:// in redis_url.")
    except OSError:
        return  # unreachable; the caller reports that


def _speaks_tls(plain: socket.socket) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # no data is sent: only the kind of answer matters
    try:
        context.wrap_socket(plain).close()
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    return True
