"""D: attention with a bias by each of torch's kernels: what works, how fast, and that it is the formula."""

from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sam_engine.modeling import image_encoder
from sam_engine.modeling.image_encoder import attend
from sam_engine.modeling.precision import cuda_tf32

from .ledger import Finding, Step
from .subjects import Subjects, timed_ms

SHAPES = {
    "windows of vit_h": (400, 14, 80),
    "global in vit_h": (16, 64, 80),
    "windows of vit_b": (300, 14, 64),
}
"""Heads of all maps, tokens a side, channels of a head."""
KERNELS = {
    "any": None,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
"""By name; ``any`` is what torch chooses, which is how the library attends."""
SLOWER = 1.15
"""Times as long as the best, at which torch has not chosen the right one."""


def steps(subjects: Subjects) -> list[Step]:
    """Return the steps of the letter."""
    kernels = [
        Step(letter="D", name=f"{name}, {_short(dtype)}", work=partial(time_kernels, subjects, shape, dtype))
        for name, shape in SHAPES.items()
        for dtype in (torch.float16, torch.bfloat16, torch.float32)
    ]
    whole = Step(letter="D", name="vit_h's encoder in fp16", work=partial(time_encoder, subjects))
    return [*kernels, whole]


def time_kernels(subjects: Subjects, shape: tuple[int, int, int], dtype: torch.dtype, found: Finding) -> None:
    """Time every kernel with rows of bias as they are and aligned; hold it against float32 products."""
    heads, side, channels = shape
    if subjects.is_dry:
        heads, side = 2, min(side, 16)
    inputs = _inputs(subjects, heads, side, channels)
    with _only("math"):
        expected = _attend([x.float() for x in inputs])
    given, best = [x.to(dtype) for x in inputs], {}
    for kernel in KERNELS:
        try:
            with _only(kernel):
                first, steady = timed_ms(
                    subjects.device, partial(_attend, given), 2 if subjects.is_dry else 10
                )
                apart = float((_attend(given).float() - expected).abs().max())
        except RuntimeError as error:
            found.facts[kernel] = f"{type(error).__name__}: {error}"[:300]
            continue
        best[kernel] = steady
        found.facts[kernel] = f"{steady:.4g} ms, first {first:.4g}, apart {apart:.2g}"
        found.hold(f"{kernel} is the formula", apart < (2e-2 if dtype != torch.float32 else 1e-3))
    found.hold("torch's choice works", "any" in best)
    if "any" in best and not subjects.is_dry:
        fastest = min(best, key=best.__getitem__)
        found.facts["fastest"] = fastest
        found.hold(f"torch's choice is fast; {fastest} is faster", best["any"] <= SLOWER * best[fastest])


def time_encoder(subjects: Subjects, found: Finding) -> None:
    """Time the whole image encoder with each kernel."""
    sam, image = subjects.model("vit_h", "fp16"), subjects.image(683, 1024)
    for kernel in KERNELS:
        try:
            with _only(kernel):
                first, steady = timed_ms(subjects.device, partial(sam.encode, [image]), 3)
        except RuntimeError as error:
            found.facts[kernel] = f"{type(error).__name__}: {error}"[:300]
            found.hold("torch's choice works", kernel != "any")
            continue
        found.facts[kernel] = f"{steady:.4g} ms, first {first:.4g}"


def _only(kernel: str) -> AbstractContextManager[None]:
    """Let torch choose no other of `KERNELS`."""
    backend = KERNELS[kernel]
    return nullcontext() if backend is None else sdpa_kernel([backend])


def _inputs(subjects: Subjects, heads: int, side: int, channels: int) -> list[Tensor]:
    """Return q, k, v and both tables."""
    shapes = [(heads, side * side, channels)] * 3 + [(side, side, channels)] * 2
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, generator=generator) for shape in shapes]
    return [x.to(subjects.device) * (1.0 if i < 3 else 0.05) for i, x in enumerate(made)]


@torch.no_grad()
def _attend(inputs: list[Tensor]) -> Tensor:
    """Attend, without rounding float32."""
    with cuda_tf32(inputs[0].device, False):
        return attend(*inputs, block_bytes=image_encoder.GPU_BLOCK_BYTES)


def _short(dtype: torch.dtype) -> str:
    """Return the name without torch's."""
    return str(dtype).removeprefix("torch.")
