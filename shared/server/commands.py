"""`sortline acl` and `sortline functions`: what an administrator sets up on the server."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.cli import JsonFlag, RedisUrl, print_json
from shared.messages import say

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from shared.server.roles import Role


def add_to(app: typer.Typer) -> None:
    """Add this package's commands."""
    app.command("acl")(acl)
    group = typer.Typer(no_args_is_help=True, help="The functions on the server that producers call.")
    app.add_typer(group, name="functions")
    group.command("load")(load_functions)
    group.command("list")(list_functions)
    group.command("delete")(delete_functions)


def acl(
    role: Annotated[
        str, typer.Argument(metavar="ROLE", help="producer, worker, viewer, reader or admin: whose rights to print")
    ],
    user: Annotated[
        str | None, typer.Option(metavar="NAME", help="print a line of an ACL file that defines this user")
    ] = None,
    password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="file with that user's password; the line holds its SHA-256")
    ] = None,
    queues: Annotated[
        str | None, typer.Option(metavar="NAMES", help="queues to which a producer may send, e.g. live (default: all)")
    ] = None,
) -> None:
    """Print what one role may do on the server, as ACL rules of Redis 7 or Valkey. SECURITY.md explains the roles.

    Write the line that --user prints into the server's ACL file, and load it with `ACL LOAD`.

    Example: sortline acl worker --user worker --password-file worker.password >> users.acl
    """
    from shared.errors import BadSetting
    from shared.secret_files import read_secret
    from shared.server import roles

    try:
        known = roles.Role(role)
    except ValueError:
        raise BadSetting(f"{role!r} is not a role: use {', '.join(roles.Role)}.") from None
    if (user is None) != (password_file is None):
        raise BadSetting("--user and --password-file define a user together: give both, or none to print the rules.")
    names = _queue_names(queues, role=known)
    if user is None or password_file is None:
        say(" ".join(roles.rules(known, names)))
        return
    password = read_secret(password_file, where=f"--password-file {password_file}")
    say(roles.user_line(known, name=_user_name(user), password=password, queues=names))


def load_functions(redis_url: RedisUrl = None) -> None:
    """Load the functions that producers of this release call, as a worker does when it starts.

    A producer whose user may not load them waits until somebody has. The functions of other releases stay.

    Example: SORTLINE_REDIS_PASSWORD_FILE=admin.password sortline functions load --redis-url redis://admin@host:6379/0
    """
    from shared.server import functions

    with _server(redis_url) as client:
        done = "are loaded" if functions.load(client) else "were loaded before"
        functions.check_text(client)
        say(f"The functions of version {functions.version()} {done}.")


def list_functions(redis_url: RedisUrl = None, as_json: JsonFlag = False) -> None:
    """List the versions of the functions that the server has.

    Example: sortline functions list
    """
    from shared.server import functions

    with _server(redis_url) as client:
        versions = functions.loaded_versions(client)
    if as_json:
        print_json({"this_release": functions.version(), "loaded": versions})
        return
    if not versions:
        say("The server has none of Sortline's functions. A worker loads them, and so does `sortline functions load`.")
    for version in versions:
        say(f"{version}  this release" if version == functions.version() else version)


def delete_functions(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="as `functions list` shows it")],
    redis_url: RedisUrl = None,
) -> None:
    """Delete the functions of one version, which no producer calls any more.

    Example: sortline functions delete 0123456789ab
    """
    from shared.errors import NotFound
    from shared.server import functions

    with _server(redis_url) as client:
        known = functions.loaded_versions(client)
        if version not in known:
            raise NotFound(f"the server has no functions of version {version!r}; it has: {', '.join(known) or 'none'}.")
        functions.delete(client, version)
        say(f"The functions of version {version} are deleted.")


@contextlib.contextmanager
def _server(redis_url: str | None) -> Iterator[redis.Redis]:
    """A client of the server; its errors are translated."""
    from redis.exceptions import ResponseError

    from shared.errors import BadSetting
    from shared.server.connection import check, connect
    from shared.server.error_translation import lacks_functions, server_errors
    from shared.settings import load_settings

    settings = load_settings(redis_url=redis_url)
    with connect(settings.redis_url) as client, server_errors(settings.redis_url):
        check(client, settings.redis_url)
        try:
            yield client
        except ResponseError as error:
            if not lacks_functions(error):
                raise
            raise BadSetting(
                "the server knows no functions (Redis has them from 7.0 on): producers run scripts there."
            ) from error


def _queue_names(text: str | None, *, role: Role) -> list[str]:
    from shared.errors import BadSetting
    from shared.schemas import NAME_RULE, is_name
    from shared.server import roles

    if text is None:
        return []
    if role is not roles.Role.PRODUCER:
        raise BadSetting(f"--queues is for producers: the rights of role {role} don't depend on queues.")
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or not all(map(is_name, names)):
        raise BadSetting(f"--queues = {text!r}: give names, separated by commas; a name {NAME_RULE}.")
    return names


def _user_name(name: str) -> str:
    from shared.errors import BadSetting

    if name == "default":
        raise BadSetting("--user = 'default': the ACL file has a line for this user already; give another name.")
    if not name or not name.isascii() or not name.isprintable() or any(character in " ,\"'\\" for character in name):
        raise BadSetting(f"--user = {name!r}: use letters, digits and signs other than blanks, commas and quotes.")
    return name
