"""The README's Python, run as it is printed there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
GIVEN = """
import numpy as np
image = np.zeros((48, 64, 3), dtype=np.uint8)
points, labels = np.array([[32, 24]]), np.array([1])
"""


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


@pytest.mark.slow
def test_generator_and_predictor_work_as_printed(tmp_path):
    """An image and points are given; 1024 prompts."""
    run(tmp_path, GIVEN + block("SamPredictor") + "assert masks.shape == (3, 48, 64)")


def test_a_folder_is_annotated_and_read_as_printed(tmp_path):
    """A dataset from the library, read with pandas."""
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.zeros((48, 64, 3), dtype=np.uint8)).save(tmp_path / "photos/black.png")
    code = (
        block("annotate_dataset") + "assert summary.num_images == open_dataset('dataset').num_images == 1\n"
    )
    reading = block("read_parquet").replace('"out/', '"dataset/')

    run(tmp_path, code + reading + "assert images['file_name'].tolist() == ['black.png']")
