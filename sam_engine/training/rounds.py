"""One step's interactive prompting: a first click or box for every mask, then clicks into the error.

B images, K prompts on each, P = B * K prompts in order of their images, M masks for each, (h, w)
low-resolution pixels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam_engine.compute.device import upload
from sam_engine.modeling.any_encoder import SkipFeatures
from sam_engine.modeling.fast.trainable import decode_batch
from sam_engine.modeling.prompt_maps import PromptPlaces
from sam_engine.modeling.sam import Sam
from sam_engine.training.config import TrainConfig
from sam_engine.training.data.batches import LOGIT_STRIDE, Batch
from sam_engine.training.data.prompts import error_clicks
from sam_engine.training.drop_path import drop_path
from sam_engine.training.losses import PromptLosses, prompt_losses

MASK_INPUT_LIMIT = 32.0
"""Logits given back as mask prompts are clipped to this."""
MIN_PAUSED_ROUNDS = 4
"""With fewer, each brings a click, ``clickless_rounds`` or not."""


class PromptRounds(nn.Module):
    """The losses of a batch over its interactive rounds, as a module: what is differentiated, or distributed.

    All that is drawn comes from the batch's seeds, one for each image, so that an image has the same prompts
    in whatever company it is.
    """

    def __init__(self, sam: Sam, config: TrainConfig) -> None:
        super().__init__()
        self.sam = sam
        self.config = config

    def forward(self, batch: Batch, num_rounds: int, loss: str = "bce_dice") -> list[PromptLosses]:
        """Return the losses of each interactive round.

        A single click has three answers, of which the best is trained; a box or several prompts have one.
        """
        generators = [torch.Generator().manual_seed(seed) for seed in batch.seeds.tolist()]
        with drop_path(self.sam.image_encoder, self.config.drop_path, generators):
            features, skips = self._encode(batch)
        pause = upload(self._draw_pauses(generators, num_rounds), batch.points.device)
        points = batch.points[:, None]  # (P, N, 2), grows by one each round
        labels = torch.ones(points.shape[:2], device=points.device)
        mask_input: Tensor | None = None
        rounds = []
        for number in range(num_rounds):
            logits, predicted_iou = self._decode(features, skips, points, labels, batch, mask_input)
            is_clear = batch.is_box if number == 0 else torch.ones_like(batch.is_box)
            losses = _losses_by_clarity(
                logits, predicted_iou, batch.targets, is_clear, loss, self.config.iou_weight
            )
            rounds.append(losses)
            if number + 1 == num_rounds:
                break
            shown = _shown_mask(logits.detach(), predicted_iou.detach(), is_clear)  # (P, h, w)
            is_refined_only = self._has_pauses(num_rounds) and number + 2 == num_rounds
            if not is_refined_only:
                click, label = _error_clicks(shown, batch.targets, generators)
                pauses = (pause == number + 1).repeat_interleave(len(points) // len(pause))
                points = torch.cat([points, click[:, None]], dim=1)
                labels = torch.cat([labels, torch.where(pauses, -1, label)[:, None]], dim=1)
            mask_input = shown[:, None].clamp(-MASK_INPUT_LIMIT, MASK_INPUT_LIMIT)
        return rounds

    def _draw_pauses(self, generators: list[torch.Generator], num_rounds: int) -> Tensor:
        """Return for each image the round in between that brings no click (B,), 0 for none."""
        if not self._has_pauses(num_rounds):
            return torch.zeros(len(generators), dtype=torch.int64)
        draws = [torch.randint(1, num_rounds - 1, (), generator=generator) for generator in generators]
        return torch.stack(draws)

    def _has_pauses(self, num_rounds: int) -> bool:
        """Whether two of so many rounds bring no click: the last one, and one in between."""
        return self.config.clickless_rounds and num_rounds >= MIN_PAUSED_ROUNDS

    @torch.no_grad()
    def first_answers(self, batch: Batch) -> Tensor:
        """Return the logits (P, h, w) of what an annotator would see after the first prompt."""
        features, skips = self._encode(batch)
        points = batch.points[:, None]
        labels = torch.ones(points.shape[:2], device=points.device)
        logits, predicted_iou = self._decode(features, skips, points, labels, batch, None)
        return _shown_mask(logits, predicted_iou, batch.is_box)

    def _encode(self, batch: Batch) -> tuple[Tensor, SkipFeatures | None]:
        """Return the features of each image, (B, C, h / 4, w / 4), and skips likewise."""
        sam = self.sam
        with self._autocast():
            images = (batch.images - sam.pixel_mean) / sam.pixel_std
            features: Tensor
            features, skips = sam.image_encoder.forward_features(
                images.contiguous(memory_format=torch.channels_last)
            )
        return features, skips

    def _decode(
        self,
        features: Tensor,
        skips: SkipFeatures | None,
        points: Tensor,
        labels: Tensor,
        batch: Batch,
        mask_input: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Return the logits (P, 4, h, w) and IoU (P, 4) of all mask tokens.

        Prompts that start from a box have two corners where the others have their first click and a padding
        token, so that both kinds are decoded together.
        """
        encoder = self.sam.prompt_encoder
        by_click, dense = encoder(points=(points, labels), boxes=None, masks=mask_input)
        later = (points[:, 1:], labels[:, 1:]) if points.shape[1] > 1 else None
        by_box, _ = encoder(points=later, boxes=batch.boxes, masks=None)
        sparse = torch.where(batch.is_box[:, None, None], by_box, by_click)
        by_click_places = encoder.places((F.pad(points, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=-1)), None)
        by_box_places = encoder.places(later, batch.boxes)
        places = PromptPlaces(
            coords=torch.where(batch.is_box[:, None, None], by_box_places.coords, by_click_places.coords),
            labels=torch.where(batch.is_box[:, None], by_box_places.labels, by_click_places.labels),
        )
        with self._autocast():
            logits, iou = decode_batch(
                self.sam.mask_decoder,
                features,
                encoder.get_dense_pe(),
                sparse,
                dense if mask_input is not None else dense[:1],
                skips,
                places,
            )
        return logits.float(), iou.float()

    def _autocast(self) -> torch.autocast:
        """Return the context of encoder and decoder; positions and losses stay float32."""
        dtype = torch.float16 if self.config.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.sam.device.type, dtype, enabled=self.config.precision != "fp32")


def _error_clicks(shown: Tensor, targets: Tensor, generators: list[torch.Generator]) -> tuple[Tensor, Tensor]:
    """Draw a click (P, 2) with its label (P,) for each prompt, for those of an image by its own generator."""
    num_prompts = len(shown) // len(generators)
    drawn = [
        error_clicks(logits, truth, LOGIT_STRIDE, generator)
        for logits, truth, generator in zip(
            shown.split(num_prompts), targets.split(num_prompts), generators, strict=True
        )
    ]
    return torch.cat([click for click, _ in drawn]), torch.cat([label for _, label in drawn])


def _losses_by_clarity(
    logits: Tensor, predicted_iou: Tensor, targets: Tensor, is_clear: Tensor, loss: str, iou_weight: float
) -> PromptLosses:
    """Train mask token 0 where a prompt is clear (P,), else the best of the other three."""
    ambiguous = prompt_losses(logits[:, 1:], predicted_iou[:, 1:], targets, loss, iou_weight)
    single = prompt_losses(logits[:, :1], predicted_iou[:, :1], targets, loss, iou_weight)
    return PromptLosses(
        total=torch.where(is_clear, single.total, ambiguous.total),
        mask=torch.where(is_clear, single.mask, ambiguous.mask),
        iou_error=torch.where(is_clear, single.iou_error, ambiguous.iou_error),
        actual_iou=torch.where(is_clear[:, None], single.actual_iou, ambiguous.actual_iou),
        chosen=torch.where(is_clear, single.chosen, ambiguous.chosen),
    )


def _shown_mask(logits: Tensor, predicted_iou: Tensor, is_clear: Tensor) -> Tensor:
    """Return the logits (P, h, w) that an annotator would see: token 0, or the best ranked of the others."""
    best = predicted_iou[:, 1:].argmax(dim=1) + 1
    picks = torch.where(is_clear, 0, best)
    return logits[torch.arange(len(logits), device=logits.device), picks]
