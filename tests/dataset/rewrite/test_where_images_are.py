"""A derived dataset finds the images of its parents, also of parents with other inputs."""

import json

import numpy as np
import pytest
from PIL import Image

from pipelines.auto_annotate import run as annotate
from sam_engine.dataset.originals import open_originals
from sam_engine.dataset.reader import open_dataset
from sam_engine.errors import ImageError
from sam_engine.structures import ImageStatus
from sam_engine.web.pictures import Pictures
from tests.helpers import fakes
from tools import apply_corrections, dedupe, export, filter, merge, sample, split, verify
from tools.command import run


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """Two inputs with one name in both, annotated, transparent on white and on black, and merged."""
    root = tmp_path_factory.mktemp("merged")
    rng = np.random.default_rng(0)
    for name, background in (("one", 255), ("two", 0)):
        (root / name).mkdir()
        for number in range(3):
            pixels = rng.integers(0, 255, (40, 50 + number, 4), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
        config = fakes.run_settings(
            input=str(root / name), output=str(root / f"out-{name}"), decode__background=background
        )
        assert annotate(config, fakes.make_disc_segmenter) == 0
    arguments = [str(root / "out-one"), str(root / "out-two"), "--names", "one,two"]
    assert run(merge.main, [*arguments, "--output", str(root / "out")]) == 0
    return root


def pixels_of(dataset):
    originals = open_originals(dataset.run_info)
    return [originals.pixels(record) for record in dataset.records()]


def test_merged_images_are_those_of_their_inputs(merged):
    """Each with the settings of its own run; the viewer has the same."""
    parts = [*pixels_of(open_dataset(merged / "out-one")), *pixels_of(open_dataset(merged / "out-two"))]
    dataset = open_dataset(merged / "out")
    viewed = [Pictures(dataset).pixels(record) for record in dataset.records()]

    assert all(map(np.array_equal, parts, pixels_of(dataset)))
    assert all(map(np.array_equal, parts, viewed))


def test_moved_inputs_are_found_in_folders_of_their_names(merged):
    """``--images`` is a folder that has one for each parent."""
    dataset = open_dataset(merged / "out")
    run_info = json.loads(json.dumps(dict(dataset.run_info)))
    for spec in run_info["selection"]["inputs"].values():
        spec["input"] = str(merged / "nowhere")
    originals = open_originals(run_info, str(merged))

    assert [originals.pixels(record).shape for record in dataset.records()] == [
        (40, 50 + number, 3) for number in (0, 1, 2, 0, 1, 2)
    ]


def test_of_two_inputs_one_may_be_gone(merged, caplog):
    """Its images have vanished, and a line says so; the others are there."""
    dataset = open_dataset(merged / "out")
    run_info = json.loads(json.dumps(dict(dataset.run_info)))
    run_info["selection"]["inputs"]["one"]["input"] = str(merged / "nowhere")
    originals = open_originals(run_info)
    first, *_, last = dataset.records()

    assert "some images are gone" in caplog.text
    assert originals.pixels(last).shape == (40, 52, 3)
    with pytest.raises(ImageError) as caught:
        originals.pixels(first)
    assert caught.value.status is ImageStatus.VANISHED


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        (filter, ["--min-area", "20", "--min-masks", "1"]),
        (sample, ["--fraction", "0.5"]),
        (split, ["--fractions", "x=0.5,y=0.5", "--seed", "3"]),
        (dedupe, []),
    ],
)
def test_what_a_tool_makes_is_verified_and_exported_with_its_images(
    merged, tmp_path, tool, arguments, capsys
):
    """Also of what was derived before."""
    out = tmp_path / "out"
    assert run(tool.main, [str(merged / "out"), *arguments, "--output", str(out), "--json"]) == 0
    parts = [out / "x", out / "y"] if tool is split else [out]
    for part in parts:
        assert run(verify.main, [str(part)]) == 0
        copies = ["--to", "sa1b", "--output", str(tmp_path / f"sa1b-{part.name}")]
        assert run(export.main, [str(part), *copies]) == 0
        assert len(list((tmp_path / f"sa1b-{part.name}").glob("*.jpg"))) == open_dataset(part).num_images
    assert "could not be copied" not in capsys.readouterr().out


def test_no_corrections_is_nothing_to_apply(merged, tmp_path, capsys):
    """Exit code 2, and one line."""
    code = run(apply_corrections.main, [str(merged / "out"), "--output", str(tmp_path / "out")])

    assert code == 2
    assert "has no corrections" in capsys.readouterr().err


def test_a_derived_dataset_is_made_again_by_its_own_command(merged, capsys):
    """No model repairs it: what damaged it is said, and which command mends it."""
    shard = next((merged / "out/annotations").iterdir())
    data = shard.read_bytes()
    shard.unlink()

    assert run(verify.main, [str(merged / "out"), "--repair"]) == 2
    assert '{"name": "merge"}' in capsys.readouterr().err
    arguments = [str(merged / "out-one"), str(merged / "out-two"), "--names", "one,two"]
    assert run(merge.main, [*arguments, "--output", str(merged / "out")]) == 0
    assert shard.read_bytes() == data
