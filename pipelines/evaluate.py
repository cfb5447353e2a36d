"""Score a model on ground truth: ``python -m pipelines.evaluate tars=[eval.tar]``."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from pipelines.config import CommandLine, main
from sam_engine.errors import ConfigError
from sam_engine.training.config import EvaluateConfig

COMMAND = CommandLine(
    name="evaluate",
    config_class=EvaluateConfig,
    plain_texts=frozenset({"output", "model.checkpoint", "model.sha256"}),
    help="""
Score a model on SA-1B-format tars: mean IoU from one click or one box for each mask, at full resolution.

Usage: python -m pipelines.evaluate tars=[EVAL.tar] [model=tiny] [model.checkpoint=FILE] [key=value ...]

  python -m pipelines.evaluate tars=[eval-coco.tar,eval-bsds.tar]     the bundled model
  python -m pipelines.evaluate tars=[eval.tar] limit=60 model.checkpoint=runs/tiny/model.safetensors

Columns: click (centre of the mask; the answer ranked first), oracle (the best of three answers), box (tight;
one answer), said (mean predicted IoU), corr (of it with the actual IoU). disc and disc3 see no pixel: a disc
round the click with the best radius for the data, and the best of three such discs.
Flags: --help, --cfg job (print the configuration and stop). Exit codes: 0 done, 1 failed, 2 bad setting.
""",
)
COLUMNS = {
    "images": "images",
    "masks": "masks",
    "click": "click_ranked",
    "disc": "disc_ranked",
    "oracle": "click_oracle",
    "disc3": "disc_oracle",
    "box": "box",
    "said": "predicted_iou",
    "corr": "iou_correlation",
}


def run(config: EvaluateConfig) -> int:
    """Score every tar, print a table and write the scores; return the exit code."""
    if not config.tars:
        raise ConfigError("tars is empty; give ground truth, for example tars=[eval-coco.tar]")
    missing = [tar for tar in config.tars if not Path(tar).is_file()]
    if missing:
        raise ConfigError(f"tars: there is no file {', '.join(missing)}")
    import torch

    from sam_engine.build import load_model
    from sam_engine.training.evaluation import evaluate
    from sam_engine.training.packing import read_tar

    torch.set_num_threads(config.threads)
    model = load_model(config.model)
    print(f"{'data':<16}" + "".join(f"{name:>8}" for name in COLUMNS))
    scores = {}
    for tar in config.tars:
        scores[Path(tar).stem] = evaluate(model, read_tar(tar, limit=config.limit)).as_dict()
        print(_row(Path(tar).stem, scores[Path(tar).stem]), flush=True)
    if config.output is not None:
        Path(config.output).parent.mkdir(parents=True, exist_ok=True)
        Path(config.output).write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    return 0


def _row(name: str, scores: Mapping[str, float]) -> str:
    """Return one line of the table."""
    values = (scores[column] for column in COLUMNS.values())
    return f"{name:<16}" + "".join(
        f"{value:>8}" if isinstance(value, int) else f"{value:>8.3f}" for value in values
    )


if __name__ == "__main__":
    sys.exit(main(COMMAND, run))
