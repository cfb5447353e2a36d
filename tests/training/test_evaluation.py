"""Evaluation on ground truth."""

from dataclasses import replace
from pathlib import Path

import torch

from sam_engine.build import ARCHITECTURES, build_architecture
from sam_engine.modeling.sam import Sam
from sam_engine.training.evaluation import evaluate
from sam_engine.training.packing import read_tar


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
        self.bright = (pixels.amax(dim=1, keepdim=True) > 120).float()
        return super().encode(images)


def test_scores_separate_ranking_from_answers(drawn_tar: Path):
    """A model whose second answer is right but ranks the whole image first scores low, its oracle high."""
    plain = build_architecture(
        replace(ARCHITECTURES["tiny"], image_size=64, trunk_width=0.25, prompt_embed_dim=32)
    )
    model = Knowing(plain.image_encoder, plain.prompt_encoder, plain.mask_decoder)

    scores = evaluate(model, read_tar(drawn_tar))

    assert (scores.images, scores.masks) == (8, 16)
    assert scores.click_oracle > 0.8
    assert scores.box == scores.click_oracle
    assert 0.05 < scores.click_ranked < 0.2  # the share of the image that a shape covers
    assert abs(scores.predicted_iou - 0.9) < 1e-6
    assert scores.disc_oracle >= scores.disc_ranked > 0.5  # half of the shapes are discs
