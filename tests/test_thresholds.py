"""Thresholds belong to the model: those of its file, or of its row in the catalogue."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipelines.auto_annotate import COMMAND, describe
from pipelines.config import load
from sam_engine import SamAutomaticMaskGenerator, annotate_dataset, open_dataset
from sam_engine.annotation.preparation import prepare
from sam_engine.build_sam import load_model, sam_model_registry
from sam_engine.catalogue import MODELS, Thresholds
from sam_engine.checkpoints.layouts import read_thresholds
from sam_engine.checkpoints.resolve import resolve_checkpoint
from sam_engine.config import AmgConfig, ModelConfig
from sam_engine.errors import CheckpointError
from tests.helpers import fakes

TINY = MODELS["tiny"].thresholds


def of(generator):
    return Thresholds(
        pred_iou_thresh=generator.pred_iou_thresh, stability_score_thresh=generator.stability_score_thresh
    )


def segmenter(**thresholds):
    """A model that recommends something."""
    model = fakes.DiscSegmenter()
    model.thresholds = Thresholds(**thresholds)
    return model


def test_generator_takes_what_the_model_recommends():
    """And says so in its attributes, as segment_anything does."""
    model = segmenter(pred_iou_thresh=0.3, stability_score_thresh=0.6)

    assert of(SamAutomaticMaskGenerator(model)) == model.thresholds
    assert of(SamAutomaticMaskGenerator.from_config(model, AmgConfig())) == model.thresholds


def test_what_is_asked_for_wins():
    """Each threshold by itself; 0 is a wish too. None goes back to the model's."""
    model = segmenter(pred_iou_thresh=0.3, stability_score_thresh=0.6)
    generator = SamAutomaticMaskGenerator(model, pred_iou_thresh=0.0)

    assert of(generator) == Thresholds(pred_iou_thresh=0.0, stability_score_thresh=0.6)
    generator.pred_iou_thresh = None
    assert of(generator) == model.thresholds


def test_a_model_that_recommends_nothing_has_those_of_segment_anything():
    """As have all vit_*."""
    assert of(SamAutomaticMaskGenerator(fakes.DiscSegmenter())) == Thresholds()
    assert [MODELS[name].thresholds for name in ("vit_b", "vit_l", "vit_h")] == [Thresholds()] * 3


def test_the_bundled_model_recommends_its_own():
    """However it is loaded."""
    assert sam_model_registry["tiny"]().thresholds == TINY
    assert load_model(ModelConfig(name="tiny", device="cpu", checkpoint="random")).thresholds == TINY


@pytest.fixture
def weights(tmp_path):
    """Return a function that writes tiny's weights with metadata; returns the file."""

    def write(**metadata):
        path = tmp_path / "tiny.safetensors"
        state = sam_model_registry["tiny"]().state_dict()
        save_file({name: tensor.to(torch.float16) for name, tensor in state.items()}, path, metadata)
        return path

    return write


def test_a_checkpoint_brings_its_own(weights):
    """Its metadata win over the catalogue, for the driver and for the model."""
    path = weights(pred_iou_thresh="0.25", stability_score_thresh="0.5", step="7")
    config = ModelConfig(name="tiny", checkpoint=str(path), device="cpu")
    expected = Thresholds(pred_iou_thresh=0.25, stability_score_thresh=0.5)

    assert resolve_checkpoint(config).thresholds == expected
    assert load_model(config).thresholds == expected


def test_a_checkpoint_without_them_has_the_catalogues(weights):
    """Files of other metadata, or of none."""
    path = weights(step="7")

    assert read_thresholds(path) is None
    assert resolve_checkpoint(ModelConfig(name="tiny", checkpoint=str(path))).thresholds == TINY


@pytest.mark.parametrize(
    "metadata",
    [
        {"pred_iou_thresh": "0.5"},
        {"pred_iou_thresh": "0.5", "stability_score_thresh": "high"},
        {"pred_iou_thresh": "0.5", "stability_score_thresh": "nan"},
    ],
)
def test_metadata_that_make_no_thresholds_are_refused(weights, metadata):
    """One of two, a word, not a number: better no run than a run with others."""
    with pytest.raises(CheckpointError, match="its metadata recommend"):
        read_thresholds(weights(**metadata))


@pytest.mark.parametrize("preset", ["default", "fast", "dense", "sa1b", "tiny"])
def test_no_preset_changes_the_models_thresholds(preset, tmp_path):
    """amg= chooses grid and crops; amg=fast with tiny finds what tiny can find."""
    fakes.write_images(tmp_path / "in", 1)
    config = load(COMMAND, [f"amg={preset}", f"input={tmp_path}/in", f"output={tmp_path}/out"])

    assert prepare(config).config.amg.thresholds == TINY


def annotate(tmp_path, **amg):
    """Make a dataset with discs, whose predicted IoU is at most 1 and whose stability is near 1."""
    fakes.write_images(tmp_path / "in", 3)
    return annotate_dataset(
        input=tmp_path / "in",
        output=tmp_path / "out",
        model={"checkpoint": "random"},
        amg={"points_per_side": 2} | amg,
        executor="inline",
        previews=0,
        make_model=fakes.make_disc_segmenter,
    )


def test_resolved_numbers_are_on_record(tmp_path):
    """In what the fingerprint is made of, in the configuration, and on the card: never None."""
    annotate(tmp_path)
    settings = json.loads((tmp_path / "out/_meta/run.json").read_text())["settings"]

    assert settings["amg.pred_iou_thresh"] == TINY.pred_iou_thresh
    assert "  stability_score_thresh: 0.6\n" in (tmp_path / "out/_meta/config.yaml").read_text()
    assert "| `amg.pred_iou_thresh` | `0.6` |" in (tmp_path / "out/README.md").read_text()


def test_an_image_without_masks_says_why(caplog):
    """Which threshold was too high, and how good the best mask was."""
    generator = SamAutomaticMaskGenerator(fakes.DiscSegmenter(), 2, pred_iou_thresh=1.5)
    image = np.zeros((40, 60, 3), np.uint8)
    assert generator.generate(image) == []
    generator.pred_iou_thresh, generator.stability_score_thresh = 0.5, 0.999
    assert generator.generate(image) == []
    first, second = (record.getMessage() for record in caplog.records)

    assert first == "no mask in 1 of 1 images: the best predicted IoU is 1, pred_iou_thresh 1.5"
    best = re.fullmatch(
        r".*: the best stability score is at most (.*), stability_score_thresh 0\.999", second
    )
    assert 0.9 < float(best[1]) < 0.999


def test_a_shard_of_empty_images_says_why_in_a_line(tmp_path, caplog):
    """Not one for each image."""
    annotate(tmp_path, pred_iou_thresh=1.5)
    said = [record.getMessage() for record in caplog.records if "no mask" in record.getMessage()]

    assert said == ["shard 0: no mask in 3 of 3 images: the best predicted IoU is 1, pred_iou_thresh 1.5"]


def test_a_run_that_is_mostly_empty_says_so_at_its_end(tmp_path):
    """In what is printed and in report.json; a run with masks has nothing to add."""
    summary = annotate(tmp_path, pred_iou_thresh=1.5)
    note = "3 of 3 annotated images have no mask: is amg.pred_iou_thresh=1.5 or"

    assert summary.notes[0].startswith(note)
    assert f"note      {note}" in describe(summary)
    assert json.loads((tmp_path / "out/_meta/report.json").read_text())["notes"] == list(summary.notes)
    assert open_dataset(tmp_path / "out").num_masks == 0
    assert annotate(tmp_path / "again").notes == []
