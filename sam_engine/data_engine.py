"""The data engine's loop, once round, against a control that costs the same. No torch, no Hydra.

`stages` has the other way to run it, stage after stage.

Two arms start from the same weights and make the same number of steps on the same schedule: ``control`` sees
the labelled images alone, ``loop`` also images that the model annotated itself. Each is run with every seed,
and all are scored on the same held-out images.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from sam_engine.config import AmgConfig, ExecutorConfig, LogConfig, ModelConfig
from sam_engine.errors import ConfigError
from sam_engine.files import write_atomically
from sam_engine.settings.checks import check_setting, check_types
from sam_engine.settings.oracle import OracleConfig
from sam_engine.training.config import TrainConfig

ARMS = ("control", "loop")
STAGES = ("manual", "semi", "auto")
"""Of the data engine: people draw; people draw what the model was not sure of; nobody works."""
METRICS = {
    "click": "click_ranked",
    "oracle": "click_oracle",
    "click anywhere": "random_ranked",
    "box": "box",
}
"""Columns of the report and their names among the scores of an evaluation."""
SETTINGS = "loop.json"
MAY_CHANGE = ("seeds", "log", "max_failed_fraction")
"""When a loop goes on: more seeds are done as well; the others change no result."""
SET_BY_THE_LOOP = ("output", "export", "init_trunk", "init_checkpoint", "seed", "log")


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Everything one run of ``pipelines.loop`` needs."""

    output: str = "runs/loop"
    """Directory of all stages. Running again goes on where it stopped."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """What annotates, and what both arms start from."""
    amg: AmgConfig = field(default_factory=AmgConfig)
    """How it annotates. The thresholds say which masks are confident enough to be learnt from."""
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    """Where it annotates."""
    log: LogConfig = field(default_factory=LogConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    """How both arms are trained; their output, start, seed, sources and log are the loop's to set."""
    labelled: list[str] = field(default_factory=list)
    """Sources with annotations that are trusted: SA-1B tars or folders, or our datasets."""
    labelled_weights: list[float] = field(default_factory=list)
    """How often each of them is drawn from, relative to the others. Empty: equally."""
    unlabelled: str | None = None
    """Images to annotate: whatever ``input`` of pipelines.auto_annotate takes. Annotations are not read."""
    limit: int | None = None
    """Annotate only the first so many of them."""
    max_failed_fraction: float = 0.05
    """Stop, with exit code 3, if more than this fraction of them failed."""
    pseudo_share: float = 0.5
    """Chance of a training image of the loop to be one that the model annotated."""
    heldout: list[str] = field(default_factory=list)
    """Ground truth that neither arm sees: whatever ``truth`` of pipelines.evaluate takes."""
    heldout_limit: int | None = None
    """Score only the first so many images of each."""
    seeds: list[int] = field(default_factory=lambda: [0, 1])
    """Each arm is trained once with each. More may be added when the loop is run again."""
    stages: list[str] = field(default_factory=list)
    """In place of once round with a control: manual, semi and auto, in any order and number, each with a part
    of the unlabelled images and a training after it. Of ``seeds`` the first counts."""
    annotator: str = "oracle"
    """Who works in the stages manual and semi: oracle, which clicks from the annotations of ``unlabelled``;
    nothing else reads them."""
    oracle: OracleConfig = field(default_factory=OracleConfig)

    def __post_init__(self) -> None:
        """Check types, then ranges."""
        check_types(self)
        check_setting("seeds", self.seeds, len(set(self.seeds)) == len(self.seeds) > 0, "different numbers")
        check_setting("pseudo_share", self.pseudo_share, 0 < self.pseudo_share < 1, "above 0 and below 1")
        known = all(stage in STAGES for stage in self.stages)
        check_setting("stages", self.stages, known, f"of {', '.join(STAGES)}")
        check_setting("annotator", self.annotator, self.annotator == "oracle", "oracle")
        weights = self.labelled_weights
        fits = len(weights) in (0, len(self.labelled)) and all(weight > 0 for weight in weights)
        check_setting("labelled_weights", weights, fits, "above 0, one for each of labelled")
        failed = self.max_failed_fraction
        check_setting("max_failed_fraction", failed, 0 <= failed <= 1, "in [0, 1]")
        for name in ("limit", "heldout_limit"):
            value = getattr(self, name)
            if value is not None:
                check_setting(name, value, value >= 1, "at least 1")
        defaults = TrainConfig()
        for name in SET_BY_THE_LOOP:
            if getattr(self.train, name) != getattr(defaults, name):
                raise ConfigError(f"train.{name} is the loop's to set; leave it out")

    @property
    def annotated(self) -> Path:
        """The dataset that the model makes of the unlabelled images."""
        return Path(self.output) / "annotated"

    @property
    def runs(self) -> dict[str, tuple[str, int]]:
        """Arm and seed of each training, by name."""
        return {f"{arm}-seed{seed}": (arm, seed) for seed in self.seeds for arm in ARMS}


def training_config(config: LoopConfig, run: str, start: Path) -> TrainConfig:
    """Return the settings of one training.

    Args:
        config: Of the loop.
        run: A name of ``config.runs``.
        start: Weights that both arms start from.
    """
    arm, seed = config.runs[run]
    weights = config.labelled_weights or [1.0] * len(config.labelled)
    labelled_share = 1.0 if arm == "control" else 1 - config.pseudo_share
    weights = [labelled_share * weight / sum(weights) for weight in weights]
    sources = list(config.labelled)
    if arm == "loop":
        sources.append(str(config.annotated))
        weights.append(config.pseudo_share)
    packed = Path(config.output) / f"{arm}.npz"
    return replace(
        config.train,
        output=str(Path(config.output) / run),
        log=config.log,
        init_checkpoint=str(start),
        seed=seed,
        data=replace(config.train.data, sources=sources, weights=weights, packed=str(packed)),
    )


def claim_output(config: LoopConfig) -> None:
    """Write the settings beside what they make, so that no other loop goes on from it.

    Raises:
        ConfigError: The output belongs to a loop with other settings.
    """
    path = Path(config.output) / SETTINGS
    # As JSON and back: tuples become lists, as they are in the file.
    settings = _deciding(json.loads(json.dumps(asdict(config))))
    if path.exists():
        there = _deciding(_read_settings(path))
        changed = sorted(_differing(there, settings))
        if changed:
            raise ConfigError(
                f"{config.output} holds a loop with other settings ({', '.join(changed)}); "
                "choose another output"
            )
        return
    write_atomically(path, json.dumps(settings, indent=2) + "\n")


def _read_settings(path: Path) -> dict[str, Any]:
    """Return what `claim_output` wrote."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        reason = None if isinstance(settings, dict) else "no JSON object"
    except (OSError, ValueError) as error:
        settings, reason = {}, str(error)
    if reason:
        raise ConfigError(
            f"{path}: not the settings of a loop ({reason}); choose another output, or remove the file to go "
            "on with the settings that are given now"
        )
    return dict(settings)


def _deciding(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings without those that may differ when a loop goes on."""
    train = {key: value for key, value in settings.get("train", {}).items() if key != "log"}
    others = {key: value for key, value in settings.items() if key not in MAY_CHANGE}
    return {**others, "train": train}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One score of one held-out set."""

    heldout: str
    metric: str
    before: float
    """Of the weights that both arms started from."""
    control: tuple[float, ...]
    """One for each seed."""
    loop: tuple[float, ...]

    @property
    def gains(self) -> tuple[float, ...]:
        """What the loop has over its control of the same seed."""
        return tuple(b - a for a, b in zip(self.control, self.loop, strict=True))

    @property
    def is_clear(self) -> bool:
        """Whether every seed agrees on the sign, and the mean gain exceeds its spread."""
        spread = _spread(self.gains)
        same_sign = len({gain > 0 for gain in self.gains}) == 1
        return spread is not None and same_sign and abs(mean(self.gains)) > spread


def compare(config: LoopConfig, scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[Comparison]:
    """Return every score before, in the control and in the loop.

    Args:
        config: Of the loop.
        scores: By ``before`` or the name of a run, then by held-out set, then by the name of the score.
    """
    found = []
    for heldout in scores["before"]:
        for metric, name in METRICS.items():
            by_arm = {
                arm: tuple(
                    scores[run][heldout][name] for run, (other, _) in config.runs.items() if other == arm
                )
                for arm in ARMS
            }
            found.append(
                Comparison(heldout=heldout, metric=metric, before=scores["before"][heldout][name], **by_arm)
            )
    return found


def table_rows(comparisons: Sequence[Comparison]) -> list[list[str]]:
    """Return a row of text for each score: before, both arms and the gain, with the spread over seeds."""
    return [
        [
            f"{c.heldout}, {c.metric}",
            f"{c.before:.3f}",
            _with_spread(c.control),
            _with_spread(c.loop),
            _with_spread(c.gains, sign="+"),
            "yes" if c.is_clear else "no",
        ]
        for c in comparisons
    ]


HEADER = ("held-out", "before", "control", "loop", "loop - control", "clear")


def verdict(comparisons: Sequence[Comparison]) -> str:
    """Return what the loop was worth, in a sentence."""
    clear = [c for c in comparisons if c.is_clear]
    better, worse = (sum(sign * mean(c.gains) > 0 for c in clear) for sign in (1, -1))
    return (
        f"Against a control of equal compute the loop is clearly better on {better} of {len(comparisons)} "
        f"scores, clearly worse on {worse}; on the others the seeds disagree or differ by more than it gains."
    )


def _with_spread(values: Sequence[float], sign: str = "") -> str:
    """Return the mean, with the standard deviation over seeds if there are several."""
    spread = _spread(values)
    return f"{mean(values):{sign}.3f}" + ("" if spread is None else f" ± {spread:.3f}")


def _spread(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation; None of a single value."""
    return stdev(values) if len(values) > 1 else None


def _differing(a: object, b: object, prefix: str = "") -> list[str]:
    """Return the dotted keys whose values differ between two nested dictionaries."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [
            key
            for name in {**a, **b}
            for key in _differing(a.get(name), b.get(name), f"{prefix}.{name}" if prefix else name)
        ]
    return [] if a == b else [prefix]
