"""URLs with a secret in all the places where people have put one, properly escaped or not."""

from __future__ import annotations

SECRET = "hunter2"

# All are for `redis_url`; most can't be used, and end in a message.
SECRET_URLS = (
    "redis://:hunter2@127.0.0.1:1/0",
    "redis://worker:hunter2@127.0.0.1:1/0",
    "redis://hunter2@127.0.0.1:1/0",
    "redis://hunter2:@127.0.0.1:1/0",
    "rediss://:hunter2@127.0.0.1:1/0",
    "unix://:hunter2@/no/such/socket",
    "redis://:hun%2Fhunter2@127.0.0.1:1/0",
    "redis://:hun/hunter2@127.0.0.1:1/0",
    "redis://:123/hunter2@127.0.0.1:1/0",
    "redis://worker:hunter2#x@127.0.0.1:1/0",
    "redis://worker:x?hunter2@127.0.0.1:1/0",
    "redis://:a@b:hunter2@127.0.0.1:1",
    "redis://:[hunter2@127.0.0.1:1",
    "redis://worker:hunter2@127.0.0.1:port/0",
    "redis://worker:hunter2@127.0.0.1:1/plant",
    "redis://worker:hunter2",
    "redis://:hunter2/0",
    "redis://127.0.0.1:1/0?password=hunter2",
    "redis://127.0.0.1:1/0?username=u&password=x&hunter2",
    "redis://127.0.0.1:1/0?password=x&hunter2=y",
    "redis://127.0.0.1:1/0?token=hunter2",
    "redis://127.0.0.1:1/0#hunter2",
    "redis://:hunter2@127.0.0.1:1/0?ssl_cert_reqs=bogus",
    "http://:hunter2@host",
    "redis:/:hunter2@127.0.0.1:1",
    ":hunter2@127.0.0.1:1",
)
