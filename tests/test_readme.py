"""The README's Python, run as it is printed there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam_engine.config import DecodeConfig
from sam_engine.dataset.manifest import build_manifest
from sam_engine.images.decode import decode_image
from sam_engine.inputs.folder import SAMPLE_PHOTOS, sample_photos

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


def run(folder, code):
    """Paste code into a fresh interpreter."""
    environment = os.environ | {"PYTHONPATH": str(README.parent), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stderr


def block(word):
    """Return the one block that has a word."""
    [code] = [block for block in BLOCKS if word in block]
    return code


def photo(number):
    """Return the pixels of a sample photo."""
    source = sample_photos()
    [entry] = build_manifest(source.iter_files()).entries(number, number + 1)
    return decode_image(source.read(entry, DecodeConfig()), DecodeConfig()).pixels


@pytest.mark.parametrize(
    "number", [0, *(pytest.param(number, marks=pytest.mark.slow) for number in range(1, len(SAMPLE_PHOTOS)))]
)
def test_generator_and_predictor_work_as_printed(number):
    """The bundled model finds masks on photos that nobody chose for it; a point gives three."""
    image = photo(number)
    names = {"image": image, "points": np.array([[60, 40]]), "labels": np.array([1])}
    generate, predict = block("SamPredictor").split("predictor = ")
    exec(generate, names)
    found = names["masks"]
    exec("predictor = " + predict, names)

    assert found
    assert names["masks"].shape == (3, *image.shape[:2])


def test_a_folder_is_annotated_and_read_as_printed(tmp_path):
    """A dataset from the library, read with pandas; none of what torch loads late is needed."""
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.zeros((48, 64, 3), dtype=np.uint8)).save(tmp_path / "photos/black.png")
    code = (
        block("annotate_dataset") + "assert summary.num_images == open_dataset('dataset').num_images == 1\n"
    )
    reading = block("read_parquet").replace('"out/', '"dataset/')
    checks = (
        "assert images['file_name'].tolist() == ['black.png']\n"
        "import sys\n"
        "assert not {'torch._dynamo', 'sympy', 'torch.onnx'} & set(sys.modules)\n"
    )

    run(tmp_path, code + reading + checks)
