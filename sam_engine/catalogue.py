"""Every model, once: its sizes, where its weights are, what its network has. No torch.

A model is a row of `MODELS`, and its kind of network one of `FAMILIES`. Whoever adds a family adds a row to
each, the network to ``sam_engine/modeling`` (and to ``ENCODERS`` in ``build_sam``), and how a file of it is
recognised to ``sam_engine/checkpoints/layouts.py``.
"""

from dataclasses import dataclass
from pathlib import Path

VIT = "vit"
"""The family of the released models: a plain ViT, and the decoder as released."""
TINY = "tiny"
"""The family for CPUs: a convolutional encoder with skip features, and a decoder with prompt maps."""


NO_MODEL = "none"
"""In place of a model's name where none looks at the images: a dataset of rows without masks."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """What a kind of network has, and what training may do with it."""

    has_skip_features: bool = False
    """The encoder gives the decoder maps at strides 4 and 8 besides the embedding."""
    has_prompt_maps: bool = False
    """The decoder reads maps of where the prompts are."""
    has_free_size: bool = False
    """The side of the input is no part of the weights: it may be another in training."""
    has_mobilenet_trunk: bool = False
    """The encoder's trunk can start from ImageNet weights of MobileNetV2."""
    has_tied_start: bool = False
    """Training from nothing starts with cross-attentions that know where a click is."""
    trunk_layers: str
    """Name of the encoder's list of layers, in the order of the input."""
    stem: tuple[str, ...] = ()
    """Names of what comes before the first of them, and counts to it."""


FAMILIES = {
    VIT: Family(trunk_layers="blocks", stem=("patch_embed", "pos_embed")),
    TINY: Family(
        has_skip_features=True,
        has_prompt_maps=True,
        has_free_size=True,
        has_mobilenet_trunk=True,
        has_tied_start=True,
        trunk_layers="trunk",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The sizes of a model. Anything may be made smaller: tests build models of a few hundred kB."""

    encoder: str = VIT
    """One of `FAMILIES`: vit or tiny."""
    image_size: int = 1024
    """Side of the square input, in pixels; a multiple of 32 for tiny and of 16 for vit."""
    embed_dim: int = 768
    """Channels of the ViT."""
    depth: int = 12
    """Blocks of the ViT."""
    num_heads: int = 12
    """Attention heads of the ViT."""
    global_attn_indexes: tuple[int, ...] = ()
    """Blocks that attend to the whole map; the others to windows."""
    window_size: int = 14
    """Side of a window, in tokens."""
    trunk_width: float = 1.0
    """Channels of the tiny trunk, relative to MobileNetV2 1.0."""
    prompt_embed_dim: int = 256
    """Channels of image embedding, prompts and decoder; a multiple of 8 * decoder_heads / 4."""
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048
    iou_head_hidden_dim: int = 256
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """RGB, in [0, 255]."""
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)

    @property
    def family(self) -> Family:
        """What its kind of network has."""
        return FAMILIES[self.encoder]


@dataclass(frozen=True, kw_only=True)
class Release:
    """Published weights, pinned."""

    url: str
    num_bytes: int
    sha256: str

    @property
    def file_name(self) -> str:
        """The last part of the URL."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What masks of a model should reach, where nobody asks for something else. The defaults are SAM's."""

    pred_iou_thresh: float = 0.88
    """Below it masks are mostly bad."""
    stability_score_thresh: float = 0.95


@dataclass(frozen=True, kw_only=True)
class Model:
    """A network with a name, and weights that can be had for it."""

    architecture: Architecture
    release: Release | None = None
    """What ``model.checkpoint=NAME`` downloads, if nothing is bundled."""
    bundled: Path | None = None
    """The weights that come with the package."""
    cpu_seconds_per_image: float = 20.0
    """Of one core, to the order of magnitude: enough to choose how to run."""
    thresholds: Thresholds = Thresholds()
    """Recommended for weights that do not bring their own."""


def _released(file_name: str, num_bytes: int, sha256: str) -> Release:
    """Return an official checkpoint of the original Segment Anything (Apache-2.0)."""
    url = f"https://dl.fbaipublicfiles.com/segment_anything/{file_name}"
    return Release(url=url, num_bytes=num_bytes, sha256=sha256)


DEFAULT_MODEL = "tiny"

MODELS = {
    "tiny": Model(
        architecture=Architecture(
            encoder=TINY,
            image_size=800,
            prompt_embed_dim=128,
            decoder_mlp_dim=512,
            iou_head_hidden_dim=128,
            pixel_mean=(127.5, 127.5, 127.5),
            pixel_std=(127.5, 127.5, 127.5),
        ),
        bundled=Path(__file__).parent / "weights" / "tiny.safetensors",
        cpu_seconds_per_image=2.5,
        thresholds=Thresholds(pred_iou_thresh=0.60, stability_score_thresh=0.60),
    ),
    "vit_b": Model(
        architecture=Architecture(embed_dim=768, depth=12, num_heads=12, global_attn_indexes=(2, 5, 8, 11)),
        release=_released(
            "sam_vit_b_01ec64.pth",
            375_042_383,
            "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        ),
    ),
    "vit_l": Model(
        architecture=Architecture(
            embed_dim=1024, depth=24, num_heads=16, global_attn_indexes=(5, 11, 17, 23)
        ),
        release=_released(
            "sam_vit_l_0b3195.pth",
            1_249_524_607,
            "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        ),
    ),
    "vit_h": Model(
        architecture=Architecture(
            embed_dim=1280, depth=32, num_heads=16, global_attn_indexes=(7, 15, 23, 31)
        ),
        release=_released(
            "sam_vit_h_4b8939.pth",
            2_564_550_879,
            "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        ),
    ),
}

ARCHITECTURES = {name: model.architecture for name, model in MODELS.items()}
