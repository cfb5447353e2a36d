"""python -m tools.equivalence: the engine beside segment_anything, image by image."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam_engine.dataset.reader import open_dataset
from sam_engine.errors import ConfigError, FingerprintError
from tools import equivalence
from tools.reference import import_segment_anything

pytestmark = pytest.mark.reference

FEW_POINTS = ["--points-per-side", "4", "--pred-iou-thresh", "-1", "--stability-score-thresh", "0.5"]


@pytest.fixture(autouse=True)
def package() -> None:
    """Tests are skipped where the reference is not installed."""
    try:
        import_segment_anything()
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    """Two folders with two images and one."""
    generator = np.random.default_rng(3)
    for name in ("a/1.png", "a/2.png", "b/3.jpg"):
        noise = generator.integers(256, size=(12, 12, 3), dtype=np.uint8)
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(noise).resize((120, 90), Image.Resampling.BILINEAR).save(path)
    return [str(tmp_path / "a"), str(tmp_path / "b")]


def paths_of(dataset: Path) -> list[str]:
    return [record.path.decode() for record in open_dataset(dataset).records()]


def test_engine_and_reference_are_compared(
    tmp_path: Path, inputs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each side is a dataset; images come from the inputs in turn, no larger than asked for."""
    out = tmp_path / "out"
    code = equivalence.main(
        [str(out), "--images", *inputs, "--long-side", "80", "--noise-limit", "2", "--json", *FEW_POINTS]
    )
    result = json.loads(capsys.readouterr().out)

    assert code == 0
    assert (
        paths_of(out / "engine") == paths_of(out / "reference") == ["0000-1.png", "0001-3.png", "0002-2.png"]
    )
    assert paths_of(out / "noise") == ["0000-1.png", "0001-3.png"]
    assert {Image.open(path).size for path in (out / "images").iterdir()} == {(80, 60)}
    assert (result["engine"]["num_images"], result["noise"]["num_images"]) == (3, 2)
    assert result["engine"]["num_first"] > 3
    assert result["engine"]["shares"]["iou_0.99"] > 0.9
    assert result["noise"]["shares"]["iou_0.99"] > 0.9


def test_it_goes_on_where_it_stopped(
    tmp_path: Path, inputs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """What is published stays; a side whose folder was deleted is made again; other settings are refused."""
    command = [str(tmp_path / "out"), "--images", inputs[1], "--sides", "engine", *FEW_POINTS]
    equivalence.main(command)
    first = capsys.readouterr().err
    equivalence.main(command)

    assert first.startswith("engine 0000-3.png: ")
    assert capsys.readouterr().err == ""
    with pytest.raises(FingerprintError, match="stability_score_thresh"):
        equivalence.main([*command, "--stability-score-thresh", "0.9"])


def test_no_images_are_a_mistake(tmp_path: Path, inputs: list[str]) -> None:
    """Named by the option."""
    with pytest.raises(ConfigError, match="--limit is 0"):
        equivalence.main([str(tmp_path / "out"), "--images", *inputs, "--limit", "0"])
