"""Every setting of a run: name, default, unit, meaning and range. No torch, no Hydra.

The sections are written in `sam_engine.settings`, one file each, and imported from here. YAML files in
``configs/`` hold only what differs. Each class checks itself when it is made, so a wrong value never reaches
a worker.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sam_engine.settings.amg import AMG_PRESETS, AmgConfig, is_on
from sam_engine.settings.checks import check_setting, check_types, settings_from
from sam_engine.settings.executor import ExecutorConfig
from sam_engine.settings.images import MAX_STORED_SIDE, SCALE_PATTERN, DecodeConfig, VideoConfig
from sam_engine.settings.model import MODEL_NAMES, PRECISIONS, ModelConfig
from sam_engine.settings.preflight import PreflightConfig
from sam_engine.settings.privacy import BLURS, PrivacyConfig
from sam_engine.structures import Partition

__all__ = [
    "AMG_PRESETS",
    "BLURS",
    "MODEL_NAMES",
    "PRECISIONS",
    "SCALE_PATTERN",
    "AmgConfig",
    "AutoAnnotateConfig",
    "DecodeConfig",
    "ExecutorConfig",
    "LogConfig",
    "ModelConfig",
    "PreflightConfig",
    "PrivacyConfig",
    "VideoConfig",
    "is_on",
    "run_config",
]


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What is written to stderr."""

    format: str = "text"
    """text, or json: one object per line."""

    def __post_init__(self) -> None:
        """Check type and choice."""
        check_types(self, "log.")
        check_setting("log.format", self.format, self.format in ("text", "json"), "text or json")


@dataclass(frozen=True, kw_only=True)
class AutoAnnotateConfig:
    """Everything one run of ``pipelines.auto_annotate`` needs."""

    input: str | None = None
    """Folder, glob, list file, Parquet, tar or video with the images. None: sample photos."""
    output: str | None = None
    """Dataset directory. None: ``outputs/<input name>-<model>``."""
    model: ModelConfig = field(default_factory=ModelConfig)
    image_table: str | None = None
    """Table with what is known of the images: .csv or .parquet with file_name, as the dataset has it, and
    some of licence, attribution, source_url and source_key."""
    amg: AmgConfig = field(default_factory=AmgConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    video: VideoConfig = field(default_factory=VideoConfig)
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    partition: Partition = field(default_factory=Partition)
    preflight: PreflightConfig = field(default_factory=PreflightConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    log: LogConfig = field(default_factory=LogConfig)
    shard_size: int | None = None
    """Images per shard: what is lost at most when a worker dies. None: 500, for small inputs fewer."""
    limit: int | None = None
    """Annotate only the first so many images of the sorted listing."""
    sample: float | None = None
    """Annotate only this fraction of the images, drawn with ``seed``."""
    seed: int = 0
    """Of the sampling; nothing else is random."""
    max_failed_fraction: float = 0.05
    """Exit with 3 if more than this fraction of the images failed."""
    on_input_change: str = "ignore"
    """If the output's dataset was begun with other images. ignore: new ones are left out, with a warning, and
    another input, limit or sample is refused. error: any change is. extend: new ones are appended to it."""
    retry_failed: bool = False
    """Make anew the shards with images that failed for a reason that may pass: unreadable, vanished, changed,
    timeout, oom and crashes."""
    previews: int = 8
    """Overlay pictures to draw, at most."""
    store_images: bool = False
    """Put an upright JPEG of each image, without metadata, into its row: the dataset is then complete without
    its input. With ``privacy.blur`` that is blurred."""
    input_column: str | None = None
    """Column of Parquet that holds the images, as bytes or paths. None: one of the usual names."""
    input_incomplete: str = "refuse"
    """refuse, or accept: annotate the whole images of a tar or video of which a part is missing."""

    def __post_init__(self) -> None:
        """Check types, then ranges."""
        check_types(self)
        if self.shard_size is not None:
            check_setting("shard_size", self.shard_size, self.shard_size >= 1, "at least 1")
        if self.limit is not None:
            check_setting("limit", self.limit, self.limit >= 1, "at least 1")
        if self.sample is not None:
            check_setting("sample", self.sample, 0 < self.sample <= 1, "in (0, 1]")
        fraction, part, answer = self.max_failed_fraction, self.partition, self.on_input_change
        check_setting("max_failed_fraction", fraction, 0 <= fraction <= 1, "in [0, 1]")
        is_known = answer in ("error", "ignore", "extend")
        check_setting("on_input_change", answer, is_known, "error, ignore or extend")
        check_setting("previews", self.previews, self.previews >= 0, "at least 0")
        fits = not self.store_images or self.decode.max_side <= MAX_STORED_SIDE
        wanted = f"at most {MAX_STORED_SIDE} with store_images=true, which writes JPEG"
        check_setting("decode.max_side", self.decode.max_side, fits, wanted)
        is_choice = self.input_incomplete in ("refuse", "accept")
        check_setting("input_incomplete", self.input_incomplete, is_choice, "refuse or accept")
        check_types(part, "partition.")
        check_setting("partition.count", part.count, part.count >= 1, "at least 1")
        check_setting("partition.index", part.index, 0 <= part.index < part.count, "below partition.count")


def run_config(settings: Mapping[str, Any]) -> AutoAnnotateConfig:
    """Return the settings of a run from keywords, as the command line makes them: ``amg`` follows the model.

    Args:
        settings: Fields of `AutoAnnotateConfig`. ``amg`` is one of `AMG_PRESETS`; or a mapping, of what
            differs from the preset of the model's name; or an `AmgConfig`, which is taken as it is.

    Raises:
        ConfigError: There is no such setting or preset, or a value is wrong.
    """
    given = settings.get("amg", {})
    rest = {key: value for key, value in settings.items() if key != "amg"}
    config: AutoAnnotateConfig = settings_from(AutoAnnotateConfig, rest)
    if isinstance(given, AmgConfig):
        return replace(config, amg=given)
    if isinstance(given, str):
        check_setting("amg", given, given in AMG_PRESETS, f"one of {', '.join(AMG_PRESETS)}")
        return replace(config, amg=AmgConfig(**AMG_PRESETS[given]))
    check_setting("amg", given, isinstance(given, Mapping), "a preset's name, a mapping or AmgConfig")
    values = {**AMG_PRESETS.get(config.model.name, {}), **given}
    return replace(config, amg=settings_from(AmgConfig, values, "amg."))
