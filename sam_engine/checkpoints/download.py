"""Files from the network: completely or not at all, resumed where their digest is known. No torch."""

import hashlib
import logging
import os
import sys
import time
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from sam_engine.checkpoints.layouts import refuse_other_kinds
from sam_engine.errors import CheckpointError

log = logging.getLogger(__name__)
CHUNK_BYTES = 2**20
TIMEOUT_S = 30.0
RETRY_DELAYS_S = (1.0, 5.0)
"""Pauses before the second and the third try of a download."""


def fetch_url(url: str, sha256: str | None) -> Path:
    """Return the cached file of a URL that is no official one, downloading if need be."""
    # The URL is part of the name: many are called model.safetensors.
    digest = hashlib.sha256(url.encode()).hexdigest()[:12]
    base = Path(urlsplit(url).path).name or "checkpoint"
    cached = cache_dir() / f"{digest}-{base}"
    if not cached.exists():
        download(url, cached, sha256=sha256)
    return cached


def download(url: str, target: Path, *, num_bytes: int | None = None, sha256: str | None = None) -> None:
    """Download a file completely or not at all.

    A broken download with a known digest is resumed, also by the next run; without one it starts anew, since
    nothing would tell whether the file behind the URL is still the same.

    Raises:
        CheckpointError: The server refuses, the connection keeps breaking, or size or digest differ.
    """
    part = target.with_name(f"{target.name}.part" if sha256 else f"{target.name}.{os.getpid()}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        if sha256 is None:
            part.unlink(missing_ok=True)
        for delay in (*RETRY_DELAYS_S, None):
            try:
                _fetch(url, part, num_bytes)
                break
            except HTTPError as error:
                if error.code == 416:  # nothing left to send: the part is another file's
                    part.unlink(missing_ok=True)
                elif error.code < 500:
                    raise
                if delay is None:
                    raise
            except (OSError, HTTPException):
                if delay is None:
                    raise
            time.sleep(delay)
    except (OSError, HTTPException) as error:
        reason = f"HTTP {error.code} {error.reason}" if isinstance(error, HTTPError) else str(error)
        raise CheckpointError(
            f"cannot download {url}: {reason}; or put the file at {target} yourself"
        ) from error
    try:
        _verify(part, url, num_bytes, sha256)
    except CheckpointError:
        part.unlink(missing_ok=True)
        raise
    os.replace(part, target)


def cache_dir() -> Path:
    """Return torch.hub's folder of checkpoints, which other programs fill too."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or f"{cache}/torch"
    return Path(home).expanduser() / "hub" / "checkpoints"


def file_sha256(path: Path) -> str:
    """Return the digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(url: str, part: Path, num_bytes: int | None) -> None:
    """Append what is missing of ``part``; raises OSError if the connection ends early."""
    have = part.stat().st_size if part.exists() else 0
    if num_bytes is not None and have >= num_bytes:
        return
    headers = {"User-Agent": "sam-engine"} | ({"Range": f"bytes={have}-"} if have else {})
    with urlopen(Request(url, headers=headers), timeout=TIMEOUT_S) as response:  # noqa: S310 - http(s) only
        if response.status != 206:
            have = 0  # the whole file comes, not the rest of it
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else num_bytes
        log.info("downloading %s (%s bytes) to %s", url, total or "unknown", part.parent)
        with (
            part.open("r+b" if have else "wb") as file,
            tqdm(
                total=total, initial=have, unit="B", unit_scale=True, disable=not sys.stderr.isatty()
            ) as bar,
        ):
            file.seek(have)
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
            if total is not None and file.tell() < total:
                raise ConnectionError(f"the connection ended after {file.tell()} of {total} bytes")


def _verify(part: Path, url: str, num_bytes: int | None, sha256: str | None) -> None:
    """Raise `CheckpointError` unless a finished download is what was wanted."""
    with part.open("rb") as file:
        refuse_other_kinds(url, file.read(512))
    size = part.stat().st_size
    if num_bytes is not None and size != num_bytes:
        raise CheckpointError(f"{url}: {size} bytes arrived instead of {num_bytes}")
    if sha256 is not None and (digest := file_sha256(part)) != sha256.lower():
        raise CheckpointError(f"{url}: its sha256 is {digest} instead of {sha256.lower()} ({size} bytes)")
