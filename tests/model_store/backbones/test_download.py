"""Downloads: a complete module is unpacked, any other answer refused."""

from __future__ import annotations

import http.client
import io
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_store.backbones import download as download_module
from model_store.backbones.download import download, fetch_module, module_url
from model_store.runtime.progress import ProgressSteps
from shared.errors import BadBackbone, BadInput, NotFound
from tests.model_store.backbones.module_server import ModuleServer, Page, files, module_server, tar_gz


@pytest.fixture(scope="module")
def server() -> Iterator[ModuleServer]:
    with module_server() as running:
        yield running


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_the_url_is_requested_as_tf_hub_does() -> None:
    assert module_url("https://tfhub.dev/a/1") == "https://tfhub.dev/a/1?tf-hub-format=compressed"
    assert module_url("https://host/a/1?key=x%2Fy") == "https://host/a/1?key=x%2Fy&tf-hub-format=compressed"
    signed = "https://host/a.tar.gz?signature=x%2Fy"  # another parameter would invalidate the signature
    assert module_url(signed) == signed


def test_redirects_are_followed(server: ModuleServer, module: Path, tmp_path: Path) -> None:
    server.serve("/storage/module.tar.gz", tar_gz(module))
    server.pages["/google/mobilenet/4"] = Page(b"", status=302, location=f"{server.url}/storage/module.tar.gz")
    fetch_module(f"{server.url}/google/mobilenet/4", tmp_path / "out", ProgressSteps())
    assert files(tmp_path / "out") == files(module)
    assert server.requests[-2:] == ["/google/mobilenet/4?tf-hub-format=compressed", "/storage/module.tar.gz"]


@pytest.mark.parametrize(
    ("origin", "to", "is_followed"),
    [
        ("https://host/a", "https://other/b", True),
        ("http://host/a", "http://other/b", True),
        ("http://host/a", "https://other/b", True),
        ("https://host/a", "http://host/a", False),
        ("https://host/a", "ftp://host/a", False),
        ("http://host/a", "ftp://host/a", False),
    ],
)
def test_no_redirect_leads_from_an_encrypted_url_to_another(origin: str, to: str, is_followed: bool) -> None:
    def redirected() -> urllib.request.Request | None:
        handler = download_module._SafeRedirects()
        return handler.redirect_request(
            urllib.request.Request(origin), io.BytesIO(), 302, "Found", http.client.HTTPMessage(), to
        )

    if is_followed:
        request = redirected()
        assert request is not None
        assert request.full_url == to
    else:
        with pytest.raises(download_module._UnsafeRedirect, match=to):
            redirected()


def test_wrong_answers_of_a_server_are_reported(
    server: ModuleServer, module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(path: str) -> None:
        fetch_module(server.url + path, tmp_path / "out", ProgressSteps())

    with pytest.raises(NotFound, match=r"/absent/1\?tf-hub-format=compressed can't be downloaded: .* 404"):
        fetch("/absent/1")
    server.pages["/down"] = Page(b"", status=503)
    with pytest.raises(NotFound, match="503"):
        fetch("/down")
    server.pages["/loop"] = Page(b"", status=302, location=f"{server.url}/loop")
    with pytest.raises(NotFound, match="infinite loop"):
        fetch("/loop")
    server.pages["/file"] = Page(b"", status=302, location="file:///etc/hostname")
    with pytest.raises(NotFound, match="302"):
        fetch("/file")
    server.pages["/ftp"] = Page(b"", status=302, location="ftp://user:secret@127.0.0.1:9/module?token=1")
    with pytest.raises(NotFound, match=r"it redirects to ftp://127\.0\.0\.1/module, which is not https://"):
        fetch("/ftp")
    server.serve("/page", b"<!DOCTYPE html><p>Sign in")
    with pytest.raises(BadBackbone, match=r"what http://.*/page serves is not a complete \.tar\.gz"):
        fetch("/page")
    content = tar_gz(module)
    server.pages["/short"] = Page(content[:-50], says_bytes=len(content))
    with pytest.raises(NotFound, match=f"ended after {len(content) - 50:,} of {len(content):,} bytes"):
        fetch("/short")
    monkeypatch.setattr(download_module, "_READ_TIMEOUT_S", 0.2)
    server.pages["/silent"] = Page(content, silent_s=1.0)
    with pytest.raises(NotFound, match="timed out"):
        fetch("/silent")
    assert not (tmp_path / "out").exists()


def test_an_unreachable_server_is_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"127\.0\.0\.1:9/.* can't be downloaded: .*refused"):
        fetch_module("http://127.0.0.1:9/module/1", tmp_path / "out", ProgressSteps())
    with pytest.raises(NotFound, match="can't be downloaded"):
        fetch_module("http://", tmp_path / "out", ProgressSteps())


def test_a_download_is_bounded(server: ModuleServer, tmp_path: Path) -> None:
    url = server.serve("/large", bytes(3000))
    with pytest.raises(BadInput, match="serves more than 2,999 bytes"):
        download(url, tmp_path / "large", steps=ProgressSteps(), max_bytes=2999)
    download(url, tmp_path / "large", steps=ProgressSteps(), max_bytes=3000)
    assert (tmp_path / "large").read_bytes() == bytes(3000)
