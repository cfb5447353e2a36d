"""ONNX Runtime Web, which decodes masks in the browser: fetched once, on request, and served from here.

It is no part of this package: 14 MB of WebAssembly that npm has, pinned by the digest of npm's own tarball.
"""

import base64
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
import urllib.request
from pathlib import Path
from urllib.error import URLError

from sam_engine.errors import ConfigError

VERSION = "1.30.0"
URL = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of the tarball, as npm states it in ``dist.integrity``."""
FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""What a page needs of the 509 files in it."""
MAX_TARBALL_BYTES = 64 * 2**20
MAX_FILE_BYTES = 32 * 2**20
TIMEOUT_S = 60.0


def runtime_folder() -> Path:
    """Return where the files of this version are, or would be."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "sam-engine" / f"onnxruntime-web-{VERSION}"


def find_runtime() -> Path | None:
    """Return the folder with all `FILES`, or None."""
    folder = runtime_folder()
    return folder if all((folder / name).is_file() for name in FILES) else None


def fetch_runtime(source: str | None = None) -> Path:
    """Return the folder with the files, which are fetched if they are not there.

    Args:
        source: The tarball as ``npm pack`` leaves it, or another address of it. None: npm's own.

    Raises:
        ConfigError: It cannot be had, or is not the one that is pinned.
    """
    found = find_runtime()
    if found is not None:
        return found
    source = source or URL
    try:
        unpack_runtime(_read(source), runtime_folder())
    except (OSError, URLError, ValueError) as error:
        raise ConfigError(
            f"{source} cannot be had: {getattr(error, 'reason', None) or error}; or run `npm pack "
            f"onnxruntime-web@{VERSION}` somewhere and give the file that it writes"
        ) from error
    return runtime_folder()


def unpack_runtime(data: bytes, folder: Path, integrity: str = INTEGRITY) -> None:
    """Put the files of a tarball into a folder, which is there whole or not at all.

    Raises:
        ConfigError: The tarball is not the one that is pinned.
        OSError: They cannot be written.
    """
    digest = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    if digest != integrity:
        raise ConfigError(
            f"the tarball of onnxruntime-web {VERSION} has integrity {digest} instead of {integrity}"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.", suffix=".part"))
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
            for name in FILES:
                member = tar.extractfile(f"package/dist/{name}")
                assert member is not None, "the pinned tarball has it as a file"
                (part / name).write_bytes(member.read(MAX_FILE_BYTES))
        if folder.exists():  # of a fetch that lost some files since
            shutil.rmtree(folder)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _read(source: str) -> bytes:
    """Return the bytes of a file or an address; raises OSError, or ValueError if they are too many."""
    if source.startswith(("https://", "http://")):
        with urllib.request.urlopen(source, timeout=TIMEOUT_S) as response:  # noqa: S310 - http(s) only
            data: bytes = response.read(MAX_TARBALL_BYTES + 1)
    else:
        with Path(source).open("rb") as file:
            data = file.read(MAX_TARBALL_BYTES + 1)
    if len(data) > MAX_TARBALL_BYTES:
        raise ValueError(f"it has more than {MAX_TARBALL_BYTES} bytes")
    return data
