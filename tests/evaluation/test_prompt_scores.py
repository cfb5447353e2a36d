"""Evaluation on ground truth."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sam_engine.evaluation.metrics import centre_click, disc_ious, random_clicks
from sam_engine.evaluation.prompts import answer_prompts, evaluate
from sam_engine.evaluation.truth import open_truth
from sam_engine.modeling.sam import Sam
from tests.helpers.reference_models import make_reduced_tiny


class Knowing(Sam):
    """Answers each prompt with the bright pixels on its side of the image."""

    def decode(
        self, embedding, *, point_coords=None, point_labels=None, boxes=None, multimask_output=True, **_
    ):
        """Return [everything, the drawn shape on the prompt's side, nothing], or the shape for boxes."""
        x = point_coords[:, 0, 0] if boxes is None else boxes[:, ::2].mean(dim=1)
        bright = torch.nn.functional.interpolate(self.bright, (16, 16), mode="area") - 0.5
        half = torch.full((16, 16), -1.0)
        half[:, :8] = 1
        sides = torch.where((x < 32)[:, None, None], half, -half)
        shape = torch.minimum(bright[0], sides)[:, None]  # (P, 1, 16, 16)
        if not multimask_output:
            return shape, torch.ones(len(x), 1)
        answers = torch.cat([torch.ones_like(shape), shape, -torch.ones_like(shape)], dim=1)
        return answers, torch.tensor([0.9, 0.5, 0.1]).expand(len(x), 3)

    def encode(self, images):
        """Remember where the image is bright."""
        [image] = images
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
        bright = (pixels.amax(dim=1, keepdim=True) > 120).float()
        height, width = image.shape[:2]
        self.bright = torch.nn.functional.pad(bright, (0, 0, 0, width - height))
        return super().encode(images)


def make_knowing() -> Knowing:
    """Return the model; its weights do not matter."""
    plain = make_reduced_tiny(image_size=64)
    return Knowing(plain.image_encoder, plain.prompt_encoder, plain.mask_decoder)


def test_scores_separate_ranking_from_answers(truth_tar: Path):
    """A model whose second answer is right but ranks the whole image first scores low, its oracle high."""
    scores = evaluate(make_knowing(), open_truth(truth_tar).first())

    assert (scores.images, scores.masks) == (3, 6)
    assert scores.click_oracle > 0.8
    assert scores.box == scores.click_oracle == scores.random_oracle
    assert 0.05 < scores.click_ranked < 0.2  # the share of the image that a shape covers
    assert scores.random_ranked == scores.click_ranked
    assert abs(scores.predicted_iou - 0.9) < 1e-6
    assert scores.disc_oracle >= scores.disc_ranked > 0.5  # half of the shapes are discs
    assert 0.75 < scores.ellipse < 0.95


def test_calibration_is_that_of_the_ranked_answers(truth_tar: Path):
    """All masks are said to be 0.9 and fill a tenth of the image: the error is what lies between."""
    scores = evaluate(make_knowing(), open_truth(truth_tar).first())

    assert scores.calibration.bias == pytest.approx(0.9 - scores.click_ranked)
    assert scores.box_calibration.bias == pytest.approx(1 - scores.box)


def test_stability_is_that_of_the_ranked_answer(truth_tar: Path):
    """Logits of 1 everywhere are above a cut half a logit higher, and not above one that is at 1.5."""
    [image] = open_truth(truth_tar).first(1)

    low = answer_prompts(make_knowing(), image, stability_offset=0.5)
    high = answer_prompts(make_knowing(), image, stability_offset=1.5)

    assert low.stability_score.tolist() == [1.0, 1.0]
    assert high.stability_score.tolist() == [0.0, 0.0]


def test_random_clicks_depend_on_image_and_place_alone(truth_tar: Path):
    """Scored by itself, an image gets the clicks that it gets among others; another seed gives others."""
    model = make_knowing()
    [first, second] = open_truth(truth_tar).first(2)

    answer_prompts(model, first, num_random=3)
    after_another = answer_prompts(model, second, num_random=3)
    alone = answer_prompts(make_knowing(), second, num_random=3)
    other = answer_prompts(model, second, num_random=3, seed=1)
    elsewhere = answer_prompts(model, replace(second, image_id=7), num_random=3)

    assert alone.random_discs.shape == (2, 3, 24)
    np.testing.assert_array_equal(alone.random_discs, after_another.random_discs)
    assert (alone.random_discs != other.random_discs).any()
    assert (alone.random_discs != elsewhere.random_discs).any()


def test_without_random_clicks_they_have_no_score(truth_tar: Path):
    """None, not 0."""
    scores = evaluate(make_knowing(), open_truth(truth_tar).first(1), num_random=0)

    assert (scores.random_ranked, scores.random_oracle, scores.disc_random) == (None, None, None)


def test_sizes_are_scored_apart(truth_tar: Path):
    """All drawn shapes are below 32 x 32 pixels: small; nothing is large."""
    scores = evaluate(make_knowing(), open_truth(truth_tar).first())

    assert scores.click_by_area["small"] == pytest.approx(scores.click_ranked)
    assert scores.click_by_area["large"] is None


def test_blind_discs_lie_where_the_model_is_clicked(truth_tar: Path):
    """The baseline has the model's own clicks, at the centre and anywhere, and nothing else."""
    [image] = open_truth(truth_tar).first(1)

    answers = answer_prompts(make_knowing(), image, num_random=2, seed=4)

    for place, mask in enumerate(image.masks):
        np.testing.assert_array_equal(answers.discs[place], disc_ious(mask, centre_click(mask)))
        clicks = random_clicks(mask, 2, (4, image.image_id, place))
        for number, click in enumerate(clicks):
            np.testing.assert_array_equal(answers.random_discs[place, number], disc_ious(mask, click))
