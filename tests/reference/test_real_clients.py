"""Public packages that build on ``segment_anything`` give on ours what they give on the original.

They are installed into a folder of their own, without what they depend on but for what they import here.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sam_engine.build_sam import build_architecture
from tests.helpers.reference_models import randomise
from tests.reference.client_runs import architecture_of

pytestmark = [pytest.mark.reference, pytest.mark.slow, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
CLIENTS = {
    "segment_geospatial": "segment-geospatial==1.4.2",
    "supervision": "supervision==0.31.2",
    "cellpose": "cellpose==4.2.1.1",
    "micro_sam": "micro-sam==1.8.14",
    "peft": "peft==0.21.2",
}
AUTODISTILL = (
    "autodistill-segment-anything==0.1.1",
    "autodistill==0.1.29",
    "autodistill-grounded-sam==0.1.2",
)
IMPORTED = [
    "accelerate",
    "affine",
    "bioimage-cpp",
    "click-plugins",
    "cligj",
    "cloudpickle",
    "defusedxml",
    "donfig",
    "fastremap",
    "fill-voids",
    "geopandas",
    "google-crc32c",
    "joblib",
    "kornia",
    "kornia-rs",
    "loky",
    "narwhals",
    "natsort",
    "numcodecs",
    "platformdirs",
    "pooch",
    "psutil",
    "pydeprecate",
    "pyogrio",
    "pyproj",
    "python-elf",
    "rasterio",
    "regex",
    "requests-toolbelt",
    "roboflow",
    "roifile",
    "scikit-learn",
    "shapely",
    "threadpoolctl",
    "tokenizers",
    "torch-em",
    "transformers",
    "zarr",
]
RELATIVE = 5e-4
"""Of the largest value; as in test_predictor_parity.py."""


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all of them; what is not to be had is seen where it is imported."""
    folder = tmp_path_factory.mktemp("clients")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    for names in (CLIENTS.values(), AUTODISTILL, IMPORTED):
        result = subprocess.run([*pip, *names], capture_output=True, text=True)
        if result.returncode:
            pytest.skip(f"pip: {result.stderr.strip().splitlines()[-1]}")
    return folder


def run(which: str, client: str, weights: Path, output: Path, folder: Path) -> list[np.ndarray]:
    """Return what a client gives on one of the packages."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.reference.client_runs"]
    paths = [str(path) for path in (weights, output, folder)]
    result = subprocess.run(
        [*command, which, client, *paths], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stderr[-2000:]
    with np.load(output) as arrays:
        return [arrays[name] for name in arrays.files]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_gives_the_same(client: str, installed: Path, tmp_path: Path) -> None:
    """Numbers up to rounding, masks but for single pixels."""
    sam = build_architecture(architecture_of(client))
    randomise(sam, seed=5)
    torch.save(sam.state_dict(), tmp_path / "weights.pth")
    ours, theirs = (
        run(which, client, tmp_path / "weights.pth", tmp_path / f"{which}.npz", installed)
        for which in ("ours", "original")
    )

    assert len(ours) == len(theirs) > 0
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.shape, mine.dtype) == (other.shape, other.dtype)
        if mine.dtype == bool:
            assert (mine != other).mean() < 1e-4
        else:
            assert np.abs(mine - other).max() <= RELATIVE * max(float(np.abs(other).max()), 0.1)


def test_autodistill_cannot_be_imported(installed: Path, tmp_path: Path) -> None:
    """It imports Grounded-SAM, and that GroundingDINO, which no index has in a form that runs here."""
    torch.save({}, tmp_path / "weights.pth")

    with pytest.raises(AssertionError, match="No module named 'groundingdino'"):
        run("ours", "autodistill_segment_anything", tmp_path / "weights.pth", tmp_path / "x.npz", installed)
