"""I: steps of training in each precision, resumed, and the gradient of the relative positions."""

import math
from dataclasses import replace
from functools import partial
from itertools import repeat

import torch
from torch import Tensor

from sam_engine.build_sam import build_architecture
from sam_engine.catalogue import ARCHITECTURES
from sam_engine.modeling.image_encoder import Attention
from sam_engine.modeling.precision import HALF_DTYPES, cuda_tf32
from sam_engine.training.config import TrainConfig
from sam_engine.training.data.batches import Batch
from sam_engine.training.trainer import Trainer

from ..meters import synchronise
from .ledger import Finding, Step
from .subjects import Subjects, timed_ms

STEPS = 12
"""In fp16, the first few are lost to finding the scale of the loss."""
SCALE = 2.0**12
"""Of a loss, so that its gradients are not too small for fp16."""
RESUMED = 1e-3
"""Of a loss, relatively, after a resumption on a device, where some sums are added in any order."""


def steps(subjects: Subjects) -> list[Step]:
    """Return the steps of the letter."""
    precisions = ("fp32", "bf16") if subjects.is_dry else ("fp32", "bf16", "fp16")
    works = {
        **{f"tiny in {precision}": partial(train, subjects, precision) for precision in precisions},
        "saved and resumed": partial(resume, subjects),
        "gradients of the relative positions": partial(grads, subjects),
    }
    return [Step(letter="I", name=name, work=work) for name, work in works.items()]


def train(subjects: Subjects, precision: str, found: Finding) -> None:
    """A few steps on one batch, which is learnt."""
    trainer, batch = _trainer(subjects, precision), _batch(subjects)
    losses = [_step(trainer, batch) for _ in range(STEPS)]
    found.facts |= {"first loss": losses[0], "last loss": losses[-1]}
    found.facts["a step, ms"] = timed_ms(subjects.device, lambda: _step(trainer, batch), 1)[1]
    found.hold("losses are finite", all(map(math.isfinite, losses)))
    found.hold("the loss falls", losses[-1] < losses[0])


def resume(subjects: Subjects, found: Finding) -> None:
    """A state that is saved takes no memory on the device, and is gone on from."""
    trainer, batch = _trainer(subjects, "fp32"), _batch(subjects)
    for _ in range(3):
        _step(trainer, batch)
    folder = subjects.folder / "training"
    if subjects.is_cuda:
        synchronise(subjects.device)
        torch.cuda.reset_peak_memory_stats(subjects.device)
        before = torch.cuda.memory_allocated(subjects.device)
    trainer.save(folder)
    if subjects.is_cuda:
        took = torch.cuda.max_memory_allocated(subjects.device) - before
        found.facts["saving took on the device, MB"] = took / 1e6
        found.hold("saving takes less than 10 MB there", took < 10**7)
    found.facts["state, MB"] = sum(path.stat().st_size for path in folder.glob("last*")) / 1e6
    other = _trainer(subjects, "fp32")
    other.resume(folder)
    losses = [[_step(one, batch) for _ in range(2)] for one in (trainer, other)]
    apart = max(abs(a - b) / abs(a) for a, b in zip(*losses, strict=True))
    found.facts |= {"step": other.step, "losses apart": apart}
    found.hold("the resumed run goes on as the other", apart <= (RESUMED if subjects.is_cuda else 0))


def grads(subjects: Subjects, found: Finding) -> None:
    """What attention's kernels give the tables of relative positions, against a CPU."""
    for window, side in ((14, 28), (0, 16 if subjects.is_dry else 32)):
        attention, x = _attention(window or side), torch.randn(1, side, side, 128, generator=_generator())
        expected = _gradients(attention, x, window, None)
        there = _attention(window or side).to(subjects.device)
        for precision in ("fp32", *HALF_DTYPES):
            name = f"{'windows' if window else 'global'}, {precision}"
            ours = _gradients(there, x.to(subjects.device), window, HALF_DTYPES.get(precision))
            cosine = min(
                float(torch.cosine_similarity(a.cpu().flatten(), b.flatten(), dim=0))
                for a, b in zip(ours, expected, strict=True)
            )
            found.facts[name] = f"cosine {cosine:.6f}"
            found.hold(f"{name}: gradients are the CPU's", cosine > (0.9999 if precision == "fp32" else 0.99))


def _gradients(attention: Attention, x: Tensor, window: int, half: torch.dtype | None) -> list[Tensor]:
    """Return the gradients of both tables, of the sum of squares."""
    attention.zero_grad()
    with cuda_tf32(x.device, False), torch.autocast(x.device.type, half, enabled=half is not None):
        y = attention(x, window)
        (y.float().square().mean() * SCALE).backward()
    return [attention.rel_pos_h.grad.clone(), attention.rel_pos_w.grad.clone()]  # type: ignore[union-attr]


def _attention(size: int) -> Attention:
    """Return attention of two heads of 64 channels with random tables."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        attention = Attention(128, 2, use_rel_pos=True, input_size=(size, size))
        for table in (attention.rel_pos_h, attention.rel_pos_w):
            torch.nn.init.normal_(table, std=0.1)
    return attention


def _generator() -> torch.Generator:
    """Return a source of numbers that are the same every time."""
    return torch.Generator().manual_seed(0)


def _trainer(subjects: Subjects, precision: str) -> Trainer:
    """Return a trainer of tiny with random weights, smaller in a dry run."""
    config = TrainConfig(
        output=str(subjects.folder / "training"),
        device=str(subjects.device),
        precision=precision,
        image_size=_side(subjects),
        images_per_step=2,
        prompts_per_image=4,
        warmup_steps=1,
        total_steps=1000,
        interactive_from_step=0,
        max_rounds=2,
        extra_round_fraction=1.0,
        threads=torch.get_num_threads(),
    )
    architecture = replace(ARCHITECTURES["tiny"], image_size=_side(subjects))
    if subjects.is_dry:
        architecture = replace(architecture, trunk_width=0.25, prompt_embed_dim=32, decoder_mlp_dim=32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Trainer(build_architecture(architecture), config)


def _side(subjects: Subjects) -> int:
    """Return the side of the training crops."""
    return 64 if subjects.is_dry else 512


def _batch(subjects: Subjects) -> Batch:
    """Return two images of four bright discs each, their masks, clicks and boxes."""
    side, images, targets, points = _side(subjects), [], [], []
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    radius = side // 8
    for number in range(2):
        image = torch.randint(0, 60, (3, side, side), generator=torch.Generator().manual_seed(number)).float()
        for place in range(4):
            centre_x, centre_y = side // 4 + place % 2 * side // 2, side // 4 + place // 2 * side // 2
            disc = (x - centre_x).square() + (y - centre_y).square() < radius**2
            image[:, disc] = 150.0 + 25 * place
            targets.append(disc.float().unfold(0, 4, 4).unfold(1, 4, 4).mean(dim=(2, 3)))
            points.append((float(centre_x), float(centre_y)))
        images.append(image)
    clicks = torch.tensor(points)
    return Batch(
        images=torch.stack(images),
        targets=torch.stack(targets),
        points=clicks,
        boxes=torch.cat([clicks - radius, clicks + radius], dim=1),
        is_box=torch.tensor([False, True] * 4),
        seeds=torch.tensor([1, 2]),
    )


def _step(trainer: Trainer, batch: Batch) -> float:
    """Do a step; return its loss."""
    return trainer.train_step(repeat(batch))[0]["loss"]
