"""Every setting of training, once. No torch, no Hydra."""

from dataclasses import dataclass, field

from sam_engine.catalogue import DEFAULT_MODEL, MODELS
from sam_engine.config import LogConfig
from sam_engine.settings.checks import check_setting, check_types

AUTOCAST_PRECISIONS = ("fp32", "bf16", "fp16")
LOSSES = ("bce_dice", "focal_dice")
OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("cosine", "step")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is trained on, and how a training crop is cut."""

    sources: list[str] = field(default_factory=list)
    """SA-1B tars or folders (``sa_<id>.jpg`` beside ``sa_<id>.json``), datasets of ours, COCO .json files."""
    region_sources: list[str] = field(default_factory=list)
    """Sources whose images serve with regions of even colour as masks, in place of their annotations."""
    images: list[str | None] = field(default_factory=list)
    """Where the images of each of ``sources``, then of ``region_sources``, are: a COCO file's folder; of a
    dataset, where its input is now if it has moved; null for the others. Empty: null for all."""
    coco_frame: str | None = None
    """upright or stored: what masks of COCO files refer to where sizes do not tell. None: refuse them."""
    corrections: str = "apply"
    """apply, or ignore: what people corrected in datasets of ours."""
    partial: bool = False
    """Take what is there of datasets of ours that are half made; they are refused otherwise."""
    weights: list[float] = field(default_factory=list)
    """How often each of ``sources``, then of ``region_sources``, is drawn from, relative to the others.
    Empty: by number of images."""
    sources_csv: str | None = None
    """Table with the columns image_id and licence; needed for ``licences`` of sources that name none."""
    licences: list[str] = field(default_factory=list)
    """Keep only images whose licence contains one of these, as whole terms (``CC BY`` is not ``CC BY-NC``).
    Empty: keep all."""
    hold_out: int | None = None
    """Keep every image whose id leaves 7 when divided by this out of training, and score on it, as on
    ``held_out``: 25 holds out 4 % of each of ``sources``. None: none."""
    packed: str | None = None
    """Packed copy of the sources, one file, made if it does not exist. None: ``packed.npz`` in ``output``.
    A machine that has it needs no sources."""
    loaders: int = 0
    """Processes that prepare batches ahead, for each process that trains. 0: prepared when needed."""
    stream: bool = False
    """Read images from the sources as they are drawn, instead of packing them first: for large data."""
    pack_only: bool = False
    """Stop when the packed copy is made."""
    short_side: int = 480
    """Images are packed, or read, with their shorter side reduced to this many pixels, which
    is what COCO's photos of 4 to 3 have."""
    jpeg_quality: int = 85
    """Of the packed images."""
    min_mask_pixels: int = 12
    """Masks smaller than this, in pixels of the reduced image, are left out."""
    min_zoom: float = 1.0
    """Below 1, images may also become so much smaller than the training size, and be padded."""
    max_zoom: float = 2.5
    """The longer side of an image becomes ``min_zoom`` to this many times the training size before the crop
    is cut. Large-scale jitter is ``min_zoom=0.1 max_zoom=2 whole_image_fraction=0``."""
    copy_paste_fraction: float = 0.0
    """Images that get things of another image pasted on."""
    whole_image_fraction: float = 0.35
    """Crops that show the whole image, padded as in inference."""

    def __post_init__(self) -> None:
        """Check types, then ranges."""
        check_types(self, "data.")
        num_sources = len(self.sources) + len(self.region_sources)
        for name in ("weights", "images"):
            values = getattr(self, name)
            is_for_packed = name == "weights" and not num_sources
            check_setting(
                f"data.{name}",
                values,
                len(values) in (0, num_sources) or is_for_packed,
                f"{num_sources}, one for each source",
            )
        choices = ("upright", "stored", None)
        check_setting(
            "data.coco_frame", self.coco_frame, self.coco_frame in choices, "upright, stored or null"
        )
        check_setting(
            "data.corrections", self.corrections, self.corrections in ("apply", "ignore"), "apply or ignore"
        )
        check_setting("data.weights", self.weights, all(weight > 0 for weight in self.weights), "above 0")
        check_setting(
            "data.hold_out", self.hold_out, self.hold_out is None or self.hold_out >= 2, "at least 2"
        )
        check_setting("data.loaders", self.loaders, self.loaders >= 0, "at least 0")
        check_setting("data.short_side", self.short_side, self.short_side >= 32, "at least 32")
        check_setting("data.jpeg_quality", self.jpeg_quality, 1 <= self.jpeg_quality <= 100, "in [1, 100]")
        check_setting("data.min_mask_pixels", self.min_mask_pixels, self.min_mask_pixels >= 1, "at least 1")
        check_setting("data.min_zoom", self.min_zoom, 0 < self.min_zoom <= 1, "in (0, 1]")
        check_setting(
            "data.copy_paste_fraction",
            self.copy_paste_fraction,
            0 <= self.copy_paste_fraction <= 1,
            "in [0, 1]",
        )
        check_setting("data.max_zoom", self.max_zoom, self.max_zoom >= 1, "at least 1")
        check_setting(
            "data.whole_image_fraction",
            self.whole_image_fraction,
            0 <= self.whole_image_fraction <= 1,
            "in [0, 1]",
        )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything one run of ``pipelines.train`` needs."""

    output: str = "runs/tiny"
    """Directory of checkpoints and logs. Running again resumes from its last checkpoint."""
    export: str | None = None
    """File for a float16 copy of the averaged weights, made when the schedule is completed."""
    data: DataConfig = field(default_factory=DataConfig)
    log: LogConfig = field(default_factory=LogConfig)
    model: str = DEFAULT_MODEL
    """tiny, vit_b, vit_l or vit_h; a ViT is trained at its own image size alone, 1024."""
    init_trunk: str | None = None
    """MobileNetV2 weights (.npz, torchvision's key names) to start the trunk from. None: random."""
    init_checkpoint: str | None = None
    """Model weights to start from, .safetensors or as released; replaces ``init_trunk``."""
    image_size: int | None = None
    """Side of the training crops, in pixels; a multiple of 32. None: the model's own, at which it will be
    used. Smaller ones are quicker by their area, but what a click means depends on how large things are."""
    images_per_step: int = 8
    """Of all batches of all processes together."""
    accumulate: int = 1
    """Batches that a step is done in, one after the other: less memory, the same gradients."""
    num_workers: int = 1
    """Processes that share each step, on Ray, one on each GPU: less time, the same gradients. 1: no Ray."""
    address: str = "local"
    """Of Ray, if there are several: local starts it here. Otherwise that of a running cluster, whose machines
    must all see ``output`` and the data."""
    max_restarts: int = 2
    """If one of several processes dies, all start again from the last checkpoint, at most so often."""
    prompts_per_image: int = 6
    total_steps: int = 4000
    """Length of the learning rate schedule. May be changed when resuming."""
    loss: str = "bce_dice"
    """bce_dice: 5 x BCE + 5 x dice; focal_dice: 20 x focal + dice, SAM's."""
    loss_warmup_steps: int = 0
    """Steps that minimise bce_dice first, whatever ``loss`` is: training from scratch needs some 1000."""
    iou_weight: float = 1.0
    """Of the squared error of predicted IoU, beside the loss of masks. SAM's is 1, beside a dice loss of
    weight 1; beside ``bce_dice``, 5 is the same proportion."""
    optimizer: str = "adamw"
    """adamw, or muon: matrices and kernels by Muon, the rest by AdamW, with the same learning rates."""
    warmup_steps: int = 200
    schedule: str = "cosine"
    """cosine: to 0.01 of the peak at the end; step: a tenth from each of ``step_decay_at`` on."""
    step_decay_at: list[float] = field(default_factory=lambda: [2 / 3, 0.963])
    """Parts of ``total_steps``; SAM's are 60,000 and 86,666 of 90,000."""
    learning_rate: float = 1e-3
    """Of everything but the trunk, at its peak."""
    trunk_learning_rate: float = 2e-4
    """Of the last layer of the trunk: of tiny's MobileNet or of the ViT."""
    layer_decay: float = 1.0
    """The trunk's layers learn by this slower for each layer that follows; SAM's: 0.8 for vit_h and vit_l."""
    frozen_layers: int = 0
    """Layers of the trunk, from the first, that are not trained: 7 of tiny's 18 halve its share of a step."""
    trained_parts: list[str] = field(default_factory=list)
    """Train only parameters whose names start so: ``[mask_decoder.shape_heads]`` fits scores to masks that
    are as good as they get. Empty: all."""
    drop_path: float = 0.0
    """Chance that the last block of a ViT is skipped, of the others in proportion; SAM's: 0.4 for vit_h."""
    weight_decay: float = 0.02
    """Of matrices and kernels; norms, biases and embeddings have none."""
    clip_grad_norm: float = 1.0
    ema_decay: float = 0.999
    """Of the averaged weights, per step; less in the beginning."""
    box_fraction: float = 0.2
    """Prompts that start from a noisy box instead of a click."""
    extra_round_fraction: float = 0.5
    """Chance of each further round: a click into the error, with the previous logits as mask prompt."""
    max_rounds: int = 3
    """SAM's: 11, with ``extra_round_fraction=1``."""
    clickless_rounds: bool = False
    """As SAM does: of four and more rounds, one in between and the last bring no click, only the previous
    logits."""
    interactive_from_step: int = 400
    """Until here, one round: prompts have to mean something first."""
    precision: str = "fp32"
    """fp32, or bf16 or fp16: autocast of encoder and decoder; fp16 scales the loss and needs CUDA."""
    device: str = "cpu"
    """A torch device; of several processes each takes its own GPU for ``cuda``."""
    threads: int = 2
    """CPU threads of each process."""
    checkpoint_minutes: float = 5.0
    """Time between checkpoints."""
    checkpoint_file_mb: float | None = None
    """Write the state to resume from as files of at most so many megabytes (10^6 bytes). None: one file."""
    held_out: list[str] = field(default_factory=list)
    """Sources, as in ``data.sources``, that are not trained on: the averaged weights are scored on them, and
    the best are kept. The images of COCO files cannot be named here."""
    held_out_packed: str | None = None
    """Packed copy of ``held_out``. None: ``held-out.npz`` in ``output``. Used wherever it exists."""
    evaluate_steps: int = 1000
    """Steps between scores on the held-out images."""
    evaluate_images: int = 50
    """Score so many of the held-out images, from each source in turn."""
    masks_per_image: float = 18.0
    """Masks a held-out image, at least, that the thresholds leave which ``export`` writes into the file: of
    these the ones of the highest mean IoU with the truth. Annotating with the file uses them by default."""
    log_steps: int = 20
    """Steps between lines of the log."""
    overlay_steps: int = 500
    """Steps between pictures of what the model makes of a few fixed crops. 0: none."""
    seed: int = 0
    may_change: list[str] = field(default_factory=list)
    """Settings, by name, that the run in ``output`` may go on with another value of. Empty: another output is
    needed for what changes what is learnt; the length of the schedule and the machine may always change."""

    def __post_init__(self) -> None:
        """Check types, then ranges."""
        check_types(self)
        at_least = (
            ("images_per_step", 1),
            ("accumulate", 1),
            ("num_workers", 1),
            ("max_restarts", 0),
            ("evaluate_steps", 1),
            ("evaluate_images", 1),
            ("overlay_steps", 0),
            ("prompts_per_image", 1),
            ("total_steps", 1),
            ("warmup_steps", 1),
            ("loss_warmup_steps", 0),
            ("frozen_layers", 0),
            ("max_rounds", 1),
            ("interactive_from_step", 0),
            ("threads", 1),
            ("log_steps", 1),
            ("checkpoint_minutes", 0),
            ("weight_decay", 0),
            ("iou_weight", 0),
        )
        for name, low in at_least:
            value = getattr(self, name)
            check_setting(name, value, value >= low, f"at least {low}")
        check_setting("masks_per_image", self.masks_per_image, self.masks_per_image > 0, "above 0")
        for name in ("learning_rate", "trunk_learning_rate", "clip_grad_norm"):
            value = getattr(self, name)
            check_setting(name, value, value > 0, "above 0")
        check_setting("model", self.model, self.model in MODELS, f"one of {', '.join(MODELS)}")
        check_setting("layer_decay", self.layer_decay, 0 < self.layer_decay <= 1, "in (0, 1]")
        check_setting("drop_path", self.drop_path, 0 <= self.drop_path < 1, "in [0, 1)")
        check_setting(
            "optimizer", self.optimizer, self.optimizer in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}"
        )
        check_setting("loss", self.loss, self.loss in LOSSES, f"one of {', '.join(LOSSES)}")
        check_setting("schedule", self.schedule, self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}")
        check_setting(
            "step_decay_at",
            self.step_decay_at,
            all(0 < part <= 1 for part in self.step_decay_at),
            "in (0, 1], parts of total_steps",
        )
        for name in ("box_fraction", "extra_round_fraction", "ema_decay"):
            value = getattr(self, name)
            check_setting(name, value, 0 <= value <= 1, "in [0, 1]")
        check_setting(
            "images_per_step",
            self.images_per_step,
            self.images_per_step % (self.accumulate * self.num_workers) == 0,
            f"a multiple of accumulate={self.accumulate} times num_workers={self.num_workers}",
        )
        check_setting(
            "precision",
            self.precision,
            self.precision != "fp16" or self.device.startswith("cuda"),
            f"fp32 or bf16 on device={self.device}",
        )
        if self.checkpoint_file_mb is not None:
            check_setting(
                "checkpoint_file_mb", self.checkpoint_file_mb, self.checkpoint_file_mb > 0, "above 0"
            )
        check_setting(
            "image_size", self.image_size, self.side % 32 == 0 and self.side > 0, "a multiple of 32"
        )
        check_setting(
            "precision",
            self.precision,
            self.precision in AUTOCAST_PRECISIONS,
            f"one of {', '.join(AUTOCAST_PRECISIONS)}",
        )

    @property
    def side(self) -> int:
        """Of the training crops, in pixels."""
        return MODELS[self.model].architecture.image_size if self.image_size is None else self.image_size
