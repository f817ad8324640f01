"""A server with a user for each role, on Debian's Redis with TLS and client certificates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
import redis

from shared.ports import free_port
from shared.server.roles import Role, user_line
from shared.settings import Settings
from tests.kit import BOTTLES
from tests.shared.server.servers import debian_server, self_signed_certificate

# A worker tries once to read options that waste memory, and a producer to load functions that the server has lost.
EXPECTED = {("worker", "config|get"), ("producer", "function|load")}


@dataclass(frozen=True)
class Plant:
    """The server as each role sees it."""

    settings_of: Callable[[Role], Settings]
    default: redis.Redis  # the user who may do everything

    def denials(self) -> set[tuple[str, str]]:
        """Who was denied what."""
        entries = cast("list[dict[str, str]]", self.default.acl_log())
        return {(entry["username"], entry["object"]) for entry in entries}


@pytest.fixture
def plant(settings: Settings, tiny_models: Path, tmp_path: Path) -> Iterator[Plant]:
    certificate, key = self_signed_certificate(tmp_path)
    port = free_port()
    users = tmp_path / "users.acl"
    lines = [user_line(role, name=role, password=f"secret-{role}") for role in Role]
    users.write_text("\n".join(["user default on nopass ~* &* +@all", *lines, ""]))
    options = ["--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    options += ["--tls-ca-cert-file", str(certificate), "--tls-auth-clients", "yes", "--aclfile", str(users)]
    query = f"ssl_ca_certs={certificate}&ssl_certfile={certificate}&ssl_keyfile={key}"

    def settings_of(role: Role) -> Settings:
        return settings.model_copy(
            update={
                "redis_url": f"rediss://{role}:secret-{role}@127.0.0.1:{port}/0?{query}",
                "model_store": str(tiny_models),
                "model": "tiny",
            }
        )

    with (
        debian_server(tmp_path, *options),
        redis.Redis(unix_socket_path=str(tmp_path / "socket")) as default,
    ):
        yield Plant(settings_of, default)


def images(count: int) -> list[str]:
    return [str(path) for path in sorted(BOTTLES.glob("*.jpg"))[:count]]
