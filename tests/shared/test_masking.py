"""What is masked in URLs and in texts that quote them, and what stays, so that a message still says which server."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shared.masking import (
    MASK,
    has_weak_password,
    masked,
    masked_setting,
    masked_text,
    masked_url,
    secrets_in_logs,
    secrets_of,
)
from tests.shared.secret_urls import SECRET, SECRET_URLS


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("redis://:hunter2@host:6379/0", "redis://:***@host:6379/0"),
        ("rediss://plant:hunter2@host/1?ssl_cert_reqs=none", "rediss://plant:***@host/1?ssl_cert_reqs=none"),
        ("redis://:hun@ter2@host", "redis://:***@host"),
        ("redis://:hun/ter2#?@host", "redis://:***@host"),
        ("unix://plant:hunter2@/run/redis.sock", "unix://plant:***@/run/redis.sock"),
        ("redis://host?password=hunter2&db=1", "redis://host?password=***&db=1"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("redis://hunter2@host", "redis://***@host"),  # most likely it is a password
        ("redis://hunter2:@host", "redis://***@host"),  # a password in the user's place again
        ("REDIS://hun/ter2@host", "REDIS://***@host"),
        ("redis://plant@site:hunter2@host", "redis://***@host"),
        ("rediss://hun/ter2@host", "rediss://***@host"),
        ("redis://:hunter2", "redis://:***"),  # the host is missing
        ("redis://plant:hun/ter2", "redis://plant:***"),
        ("redis://host/0?password=hun&ter2=x&db=1", "redis://host/0?password=***&db=1"),  # an & in the password
        ("redis://host/0?hunter2", "redis://host/0?***"),
        ("redis://host/0#hunter2", "redis://host/0#***"),
        ("s3://key:hun/ter2@bucket/m", "s3://key:***@bucket/m"),
        (
            "s3://bucket/m?endpoint_url=https://minio:9000&region=eu",
            "s3://bucket/m?endpoint_url=https://minio:9000&region=eu",
        ),
        ("s3://bucket/m?endpoint_url=https%3A%2F%2Fk%3Ahunter2%40minio", "s3://bucket/m?endpoint_url=***"),
        ("https://b.example/m?X-Amz-Algorithm=A&X-Amz-Signature=hunter2", "https://b.example/m?X-Amz-Algorithm=***"),
        ("https://hunter2@site/module", "https://***@site/module"),
        ("https://site/module@2", "https://site/module@2"),
        ("http://127.0.0.1:8000/module@2", "http://127.0.0.1:8000/module@2"),
        (
            "https://tfhub.dev/m/1?tf-hub-format=compressed#scaling=-1..1&size=192",
            "https://tfhub.dev/m/1?tf-hub-format=compressed#scaling=-1..1&size=192",
        ),
        ("bottles@3", "bottles@3"),
        ("/models", "/models"),
        ("redis://host/0?db=1?password=hunter2", "redis://host/0?db=1?password=***"),  # a ? instead of an &
        ("redis://host/0?password=hun#ter2=x", "redis://host/0?password=***"),  # a # in the password
        ("redis://host/0?a=hun;ter2&db=1#", "redis://host/0?a=***&db=1#"),
        ("redis://host/0?hun/ter2=x", "redis://host/0?***"),
    ],
)
def test_a_value_is_masked(value: str, shown: str) -> None:
    assert masked(value) == shown
    assert masked(shown) == shown


@pytest.mark.parametrize("url", [*SECRET_URLS, ":hunter2@host:6379", "hunter2@host", "redis:/:hunter2@host"])
def test_what_should_be_a_url_is_masked_whatever_its_form(url: str) -> None:
    assert SECRET not in masked_url(url)
    assert SECRET not in str(masked_setting("redis_url", url))
    assert SECRET not in masked_text(f"can't use '{url}', or <{url}>: {url}. See docs.", secrets_of(url))


def test_a_password_is_masked_by_the_name_of_its_setting() -> None:
    assert masked_setting("redis_password", SECRET) == "***"
    assert masked_setting("redis_password", None) is None
    assert masked_setting("max_batch", 16) == 16


def test_urls_in_texts_are_masked_and_the_words_around_them_stay() -> None:
    text = (
        "Error 111 at redis://:hunter2@host:6379/0. (Try rediss://u:hunter2@host, or 'http://a:b@c/d?token=hunter2'.)"
    )
    shown = "Error 111 at redis://:***@host:6379/0. (Try rediss://u:***@host, or 'http://a:***@c/d?token=***'.)"
    assert masked_text(text) == masked_text(shown) == shown


def test_the_form_of_a_url_in_our_own_advice_is_not_masked() -> None:
    advice = "write redis://[user:password@]host:6379/db, or rediss:// for TLS."
    assert masked_text(advice) == advice


def test_pieces_that_libraries_quote_are_masked() -> None:
    secrets = secrets_of("http://u:hunter2%2Fhunter3@site/m?token=abcdef&region=eu")
    assert masked_text("nonnumeric port: 'hunter2/hunter3@site'", secrets) == "nonnumeric port: '***@site'"
    assert masked_text("no host 'hunter2', Max retries: /m?token=abcdef&region=eu", secrets) == (
        "no host '***', Max retries: /m?token=***&region=eu"
    )
    assert secrets_of("redis://host?password=x&hunter2=y&db=1") == ("hunter2",)
    assert secrets_of("redis://host?hunter2:x=y") == ("hunter2%3Ax", "hunter2:x", "hunter2")
    assert secrets_of("redis://u:pw@host/0") == ()  # two letters are in every other word


# Unescaped, with what ends a URL in a text.
SPACED = ["p a ssw", "p\ta ssw", "it's a ssw", "p\"a's sw", "p<a>s sw", "p,a;s. sw", "12 34 ssw", "p@a ssw", "pä\\s sw"]


@pytest.mark.parametrize("password", SPACED)
@pytest.mark.parametrize(
    "quoted", [str, repr, json.dumps, lambda url: repr(["it's", url, '"']), lambda url: quote(url)]
)
def test_no_piece_of_an_unescaped_password_is_shown(password: str, quoted: Callable[[str], str]) -> None:
    url = f"redis://u:{password}@h/0"
    shown = masked_text(f"can't open {quoted(url)}, see x@y", secrets_of(url))
    assert "sw" not in shown
    assert quote(MASK) in quote(shown)


def test_a_text_alone_shows_where_a_password_with_blanks_ends() -> None:
    assert masked_text("can't open 'redis://u:p a ssw@h/0'") == "can't open 'redis://u:***@h/0'"
    ports = "redis://host:6379: gone, x@y; http://h:80, x@y; http://[::1]:80 x@y; redis://u:*** x@y"
    assert masked_text(ports) == ports


def test_a_password_that_is_the_users_name_or_a_common_word_leaves_the_log_readable() -> None:
    same = "redis://worker:worker@host/0"
    assert masked_text(f"the worker at {same}", secrets_of(same)) == "the worker at redis://worker:***@host/0"
    common = "redis://u:Sortline@host/0"
    assert masked_text(f"Sortline at {common}", secrets_in_logs(common)) == "Sortline at redis://u:***@host/0"
    assert secrets_in_logs("redis://u:12345@host/0") == ()
    assert secrets_in_logs("redis://u:123456@host/0") == ("123456",)


@pytest.mark.parametrize(
    ("url", "is_weak"),
    [
        ("redis://host/0", False),
        ("redis://long-random@host", False),  # it is a user
        ("redis://u:long-random@host", False),
        ("redis://u:12345@host", True),
        ("redis://:12345@host", True),
        ("redis://long-random:long-random@host", True),
        ("redis://u:pass%77ord@host", True),
    ],
)
def test_a_weak_password_is_known(url: str, is_weak: bool) -> None:
    assert has_weak_password(url) is is_weak


def test_a_long_text_without_an_end_takes_no_long_time() -> None:
    assert masked_text("://" * 100_000).startswith("://")
    assert masked_text("a" * 1_000_000 + "://:hunter2@h").endswith("://:***@h")


@given(
    password=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=6, max_size=20).map("Zq9".__add__),
    form=st.sampled_from(
        [
            "redis://:{}@host:6379/0",
            "rediss://worker:{}@host/1?ssl_cert_reqs=none",
            "unix://w:{}@/run/redis.sock",
            "redis://{}@host",
            "redis://host/0?password={}",
            "s3://key:{}@bucket/models",
            "https://site.example/m?token={}",
        ]
    ),
    is_escaped=st.booleans(),
)
def test_no_piece_of_any_password_is_shown(password: str, form: str, is_escaped: bool) -> None:
    assume(is_escaped or ":" not in password or form != "redis://{}@host")  # else it is a user and a password
    url = form.format(quote(password, safe="") if is_escaped else password)
    shown = masked_url(url)
    assert "Zq9" not in shown
    assert masked_url(shown) == shown
    assert "Zq9" not in masked_text(f"it is {url} that failed", secrets_of(url))
