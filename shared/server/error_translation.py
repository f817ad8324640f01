"""Translates each error of the Redis client into one of ours, which says what happened and how to fix it.

    we raise            when                                                              the caller
    RedisUnavailable    the server can't be reached, or refuses what it will accept later   waits and calls again
    QueueFull           the server's memory is full                                         waits, or drops the image
    BadSetting          login, rights, TLS, database, cluster: a person must fix it         ends and says how to fix it
    CommandRefused      any other refusal, e.g. because a key has the wrong type            gives up this call

A worker waits and tries again in all four cases, because it holds jobs. It logs the text of `explain`.
"""

from __future__ import annotations

import contextlib
import functools
import re
import ssl
from collections.abc import Callable, Iterator
from typing import NamedTuple

from redis import exceptions
from redis.connection import parse_url

from shared.errors import BadSetting, Bound, CommandRefused, QueueFull, RedisUnavailable, SortlineError
from shared.masking import masked_text, masked_url, secrets_of


class _Meaning(NamedTuple):
    """What an error code of the server means."""

    raises: Callable[[str], SortlineError]
    text: str  # follows "the Redis server at URL"; {text} is the server's own text
    advice: str  # how to fix it


_CLUSTER = _Meaning(
    BadSetting,
    "is a node of a Redis Cluster, which neither Sortline nor RQ supports",
    "Point redis_url at a server that is not in cluster mode.",
)
_LOGIN = _Meaning(
    BadSetting,
    "refuses the login",
    "Put the user that it expects into redis_url, and the password there or into redis_password_file; give neither if "
    "it expects none.",
)
_NO_USER = "redis_url has a password and names no user, so it logs in as `default`. "
_NO_DATABASE = _Meaning(
    BadSetting, "has no such database: {text}", "Most servers have databases 0 to 15; end redis_url with such a number."
)

# By the code that the server's answer begins with.
_MEANINGS = {
    "LOADING": _Meaning(RedisUnavailable, "is loading its data (LOADING)", "It answers when it is done."),
    "BUSY": _Meaning(
        RedisUnavailable,
        "is busy with a long script (BUSY)",
        "It answers when the script ends; SCRIPT KILL or FUNCTION KILL ends it.",
    ),
    "MISCONF": _Meaning(
        RedisUnavailable,
        "refuses writes because it can't save its data to disk (MISCONF)",
        "Its log names the fault: often a full disk, or a folder that it may not write to.",
    ),
    "NOREPLICAS": _Meaning(
        RedisUnavailable,
        "refuses writes because too few of its replicas are in sync (NOREPLICAS)",
        "Start its replicas, or lower min-replicas-to-write.",
    ),
    "READONLY": _Meaning(
        RedisUnavailable, "is a replica and refuses writes (READONLY)", "Point redis_url at its primary."
    ),
    "UNBLOCKED": _Meaning(RedisUnavailable, "has become a replica (UNBLOCKED)", "Point redis_url at its primary."),
    "MASTERDOWN": _Meaning(
        RedisUnavailable,
        "is a replica that has lost its primary, and refuses reads (MASTERDOWN)",
        "Point redis_url at the primary.",
    ),
    "OOM": _Meaning(
        functools.partial(QueueFull, bound=Bound.MEMORY),
        "accepts no more data because its memory is full (OOM)",
        "If many images are waiting, add workers or lower queue_max_bytes. If few are, finished jobs take the memory: "
        "lower result_ttl_s and failure_ttl_s in the producers' settings, or raise the server's maxmemory "
        "(docs/sizing.md).",
    ),
    "LOGIN": _LOGIN,
    "NOPERM": _Meaning(
        BadSetting,
        "does not let this user do that (NOPERM): {text}",
        "`sortline acl ROLE` prints the rights that the user of redis_url needs (ACL SETUSER); ACL LOG names what was "
        "denied.",
    ),
    "DENIED": _Meaning(
        BadSetting,
        "is in protected mode and accepts only connections from its own machine (DENIED)",
        "Set a password on the server and put it into redis_url.",
    ),
    "MOVED": _CLUSTER,
    "ASK": _CLUSTER,
    "CROSSSLOT": _CLUSTER,
    "CLUSTERDOWN": _CLUSTER,
    "TRYAGAIN": _CLUSTER,
}

# Answers whose code is ERR, by how their text begins.
_MEANINGS_OF_ERR = {
    "ACL failure in script": _MEANINGS["NOPERM"],
    "The user executing the script": _MEANINGS["NOPERM"],  # Redis 7.0
    "max number of clients": _Meaning(
        RedisUnavailable, "has no connection left: {text}", "Raise its maxclients, or end some of its clients."
    ),
    # MULTI was refused, e.g. with BUSY, but the commands after it were not. Sending them again doubles nothing.
    "EXEC without MULTI": _Meaning(
        RedisUnavailable, "refused a part of a transaction: {text}", "Sending it again is safe."
    ),
    "DB index": _NO_DATABASE,
    "invalid DB index": _NO_DATABASE,
    "SELECT is not allowed in cluster mode": _CLUSTER,
    "unknown command": _Meaning(
        BadSetting, "lacks a command: {text}", "Sortline needs Redis 6.2 or Valkey 7.2, or a later one."
    ),
}

# For these answers the client drops the code from the text; the class of its error tells which code it was.
_CODES_OF_CLASSES: tuple[tuple[type[Exception], str], ...] = (
    (exceptions.AuthenticationError, "LOGIN"),
    (exceptions.AuthenticationWrongNumberOfArgsError, "LOGIN"),
    (exceptions.AuthorizationError, "NOPERM"),
    (exceptions.NoPermissionError, "NOPERM"),
    (exceptions.BusyLoadingError, "LOADING"),
    (exceptions.ReadOnlyError, "READONLY"),
    (exceptions.MasterDownError, "MASTERDOWN"),
    (exceptions.OutOfMemoryError, "OOM"),
    (exceptions.AskError, "ASK"),  # MovedError is one
    (exceptions.TryAgainError, "TRYAGAIN"),
    (exceptions.ClusterCrossSlotError, "CROSSSLOT"),
    (exceptions.ClusterDownError, "CLUSTERDOWN"),
)

# The client puts this before the answer to one command of a pipeline: the command, with the beginning of its arguments.
_PIPELINE = re.compile(r"^Command # \d+ \((?P<command>\w*).*\) of pipeline caused error: ", re.DOTALL)
# EXEC answers with this if the server's state changed after the commands were queued. Then follows the answer that each
# of the commands would get.
_DISCARDED = "Transaction discarded because of: "
# Redis 6 puts this before the answer to a command of a script: the place in the script.
_SCRIPT = re.compile(r"^(?:ERR )?Error running script .*?@user_script: ?\d+: -?", re.DOTALL)
# If a script raises an answer again, as ours do, the text begins with the place in the script, and with the code, which
# the client removes elsewhere.
_RAISED_AGAIN = re.compile(r"^(?:user_(?:script|function):\d+: (?=[A-Z]))?(?:ERR )?")
# Redis 7 and Valkey put this after the answer to a command of a script: the place in the script.
_PLACE_IN_SCRIPT = re.compile(r" script: \w*,? ?on @user_(?:script|function):\d+\.?$")
_NO_FUNCTIONS = re.compile(r"unknown command ['`](FCALL|FUNCTION)\b", re.IGNORECASE)
_CODE = re.compile(r"^([A-Z]+) ")


@contextlib.contextmanager
def server_errors(redis_url: str) -> Iterator[None]:
    """Translate the client's errors within the `with` block, which calls the server at `redis_url`.

    Raises:
        RedisUnavailable, QueueFull, BadSetting, CommandRefused: the translation of the client's error (`translate`).
    """
    try:
        yield
    except exceptions.RedisError as error:
        raise translate(error, redis_url) from error


def translate(error: exceptions.RedisError, redis_url: str | None = None) -> SortlineError:
    """The error of ours to raise instead of `error`.

    Its message is one line. It names the server, with the password masked, if `redis_url` is given.
    """
    at = "" if redis_url is None else f" at {masked_url(redis_url)}"
    code, text = _code_and_text(error)
    meaning = _meaning(code, text)
    text = masked_text(text, () if redis_url is None else secrets_of(redis_url))
    if meaning is not None:
        also = _NO_USER if meaning is _LOGIN and _names_no_user(redis_url) else ""
        message = f"the Redis server{at} {meaning.text.format(text=text)}. {also}{meaning.advice}"
        return QueueFull(message, bound=Bound.MEMORY) if meaning.raises is QueueFull else meaning.raises(message)
    if isinstance(error, (exceptions.ConnectionError, exceptions.TimeoutError)):
        return _connection_error(error, at, text)
    if isinstance(error, exceptions.InvalidResponse):
        return BadSetting(f"the server{at} is not a Redis server: {text}. Correct redis_url.")
    return CommandRefused(f"the Redis server{at} refuses a command: {text}.")


def explain(error: Exception, redis_url: str | None = None) -> str:
    """What went wrong and how to fix it. The server at `redis_url` is named; None if the process uses only one."""
    return str(translate(error, redis_url) if isinstance(error, exceptions.RedisError) else error)


def is_unreachable(error: Exception) -> bool:
    """Whether there was no answer: the server can't be reached, hangs, or closed the connection."""
    is_of_connection = isinstance(error, (exceptions.ConnectionError, exceptions.TimeoutError))
    return is_of_connection and _meaning(*_code_and_text(error)) is None


def is_wrong_type(error: object) -> bool:
    """Whether the server refused a command because its key holds another type: other keys are not affected."""
    return isinstance(error, exceptions.ResponseError) and _code_and_text(error)[1].startswith("WRONGTYPE ")


def is_missing_function(error: object) -> bool:
    """Whether the server refused a call because it does not have the function."""
    return isinstance(error, exceptions.ResponseError) and _code_and_text(error)[1].startswith("Function not found")


def lacks_functions(error: object) -> bool:
    """Whether the server refused a call because it knows no functions at all, as Redis before 7."""
    return isinstance(error, exceptions.ResponseError) and _NO_FUNCTIONS.match(_code_and_text(error)[1]) is not None


def _code_and_text(error: Exception) -> tuple[str, str]:
    """The code of the server's answer ("" for a code that this module doesn't know), and the rest of its text."""
    text, command = str(error), ""
    if pipeline := _PIPELINE.match(text):
        command, text = pipeline["command"], text[pipeline.end() :]
    text = _RAISED_AGAIN.sub("", _SCRIPT.sub("", text.removeprefix(_DISCARDED)))
    text = _PLACE_IN_SCRIPT.sub("", text).rstrip(".")
    code = next((code for kind, code in _CODES_OF_CLASSES if isinstance(error, kind)), "")
    if not code and (found := _CODE.match(text)) and found[1] in _MEANINGS:
        code, text = found[1], text[found.end() :]
    return code, f"{text} (in {command})" if command else text


def _meaning(code: str, text: str) -> _Meaning | None:
    if code in _MEANINGS:
        return _MEANINGS[code]
    return next((meaning for start, meaning in _MEANINGS_OF_ERR.items() if text.startswith(start)), None)


def _names_no_user(redis_url: str | None) -> bool:
    """Whether a URL has a password, but no user."""
    with contextlib.suppress(ValueError):  # it can't be used, so nobody has logged in with it
        options = parse_url(redis_url or "")  # type: ignore[no-untyped-call]  # redis has no types here
        return bool(options.get("password")) and not options.get("username")
    return False


def _connection_error(error: Exception, at: str, text: str) -> SortlineError:
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError) and (refusal := _tls_refusal(cause, at)):
            return refusal
    hint = _tls_hint(error)  # if there is one, so is a server
    advice = " Start one, or set SORTLINE_REDIS_URL or --redis-url." if at and not hint else ""
    return RedisUnavailable(f"no Redis server answers{at}: {text}{hint}.{advice}")


def _tls_refusal(cause: ssl.SSLError, at: str) -> BadSetting | None:
    """The error for a handshake that will always be refused; None for a handshake that was merely cut off."""
    reason = cause.reason or ""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return BadSetting(
            f"the certificate of the Redis server{at} is not trusted: {cause.verify_message.rstrip('.')}. In redis_url "
            "name its authority's certificate (?ssl_ca_certs=FILE), and write the host as the certificate names it."
        )
    if reason == "WRONG_VERSION_NUMBER":
        return wants_no_tls(at)
    if "ALERT" in reason and "INTERNAL_ERROR" not in reason:
        return BadSetting(
            f"the Redis server{at} refuses the TLS handshake: {reason.replace('_', ' ').lower()}. If it requires a "
            "client certificate, name one in redis_url (?ssl_certfile=FILE&ssl_keyfile=FILE)."
        )
    if reason == "KEY_VALUES_MISMATCH" or "key values mismatch" in str(cause):
        return BadSetting(
            f"the key does not belong to the certificate, for the Redis server{at}. In redis_url name the two that "
            "were made together (?ssl_certfile=FILE&ssl_keyfile=FILE)."
        )
    if cause.library in ("X509", "PEM") or "PEM" in str(cause):
        also = "" if "ssl_keyfile=" in at else " If ssl_certfile does not hold its key too, name ssl_keyfile."
        return BadSetting(
            f"a certificate or key that redis_url names can't be read: {cause}. It must be a PEM file.{also}"
        )
    return None


def _tls_hint(error: Exception) -> str:
    """A likely reason for a handshake that got no answer, or a connection that was closed after it."""
    for cause in _causes(error):
        if isinstance(cause, TimeoutError) and "handshake" in str(cause):
            return ", in the TLS handshake: if the server does not speak TLS, write redis:// instead of rediss://"
        if isinstance(cause, ssl.SSLEOFError):
            return ": if it requires a client certificate, name one in redis_url (?ssl_certfile=FILE&ssl_keyfile=FILE)"
    return ""


def wants_no_tls(at: str) -> BadSetting:
    """The error for a rediss:// URL of a port that does not speak TLS; `at` as in `translate`."""
    return BadSetting(f"the Redis server{at} does not speak TLS. Write redis:// instead of rediss:// in redis_url.")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
