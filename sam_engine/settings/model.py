"""Settings of the network."""

from dataclasses import dataclass

from sam_engine.catalogue import DEFAULT_MODEL, MODELS, NO_MODEL
from sam_engine.settings.checks import check_setting, check_types

MODEL_NAMES = tuple(MODELS)
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network, with which weights, where and how it runs."""

    name: str = DEFAULT_MODEL
    """Architecture: tiny, vit_b, vit_l or vit_h; ``none`` for rows without masks, which people draw."""
    checkpoint: str | None = None
    """Weights: a known name, a path or a URL. None: bundled for tiny, the official release for vit_*;
    ``random`` for untrained weights, which is stamped into the output."""
    sha256: str | None = None
    """If set, the checkpoint file must have this digest."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps. auto takes CUDA where there is some, else the CPU."""
    precision: str = "fp32"
    """fp32, tf32, fp16 or bf16, of all that is computed on the image. Anything but fp32 changes masks: fp16
    the least, bf16 the most."""

    def __post_init__(self) -> None:
        """Check types and names; whether the device exists is known only where the model runs."""
        check_types(self, "model.")
        known_names = (*MODEL_NAMES, NO_MODEL)
        check_setting("model.name", self.name, self.name in known_names, f"one of {', '.join(known_names)}")
        check_setting(
            "model.precision", self.precision, self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}"
        )
        kind, _, index = self.device.partition(":")
        known = kind in ("auto", "cpu", "cuda", "mps") and (not index or (kind == "cuda" and index.isdigit()))
        check_setting(
            "model.device",
            self.device,
            known and not self.device.endswith(":"),
            "auto, cpu, cuda, cuda:N or mps",
        )
