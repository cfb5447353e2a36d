"""Correct a dataset in the browser, or draw one from bare photos: python -m tools.annotate OUT."""

import argparse
import getpass
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam_engine.__main__ import called
from sam_engine.catalogue import DEFAULT_MODEL, MODELS, NO_MODEL, Thresholds
from sam_engine.config import AutoAnnotateConfig, ExecutorConfig, ModelConfig
from sam_engine.dataset.correction_log import read_corrections
from sam_engine.dataset.correction_report import work_report
from sam_engine.dataset.corrections import Stage
from sam_engine.dataset.reader import Dataset, open_dataset
from sam_engine.errors import ConfigError, ImageError

from .command import command_line

if TYPE_CHECKING:
    from sam_engine.web.app import Viewer

ORDERS = ("stability", "predicted_iou", "masks", "random", "name")

DESCRIPTION = """Correct the masks of a dataset in the browser of this machine, or draw them from bare photos.

  annotate OUT                         review all masks, the least stable first
  annotate OUT --stage semi            the confident masks are there, the rest is to be drawn
  annotate OUT --input PHOTOS          a dataset of rows without masks first; then draw them
  annotate OUT --report                what was done, by whom, in how much time

Prints one address with its token; Ctrl-C ends it. What is said there is a log beside the rows
(corrections/), which never change; it lasts when the page says "saved". Several people may work on one
dataset, from several programs. tools.apply_corrections makes a dataset of what they left, and
pipelines.train reads it. Needs the extra `viewer`.

Exit codes: 0 done; 2 usage; 4 storage; 130 interrupted.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted, or report."""
    options = _parser().parse_args(arguments)
    if options.input is not None:
        begin_bare(options.input, options.dataset)
    dataset = open_dataset(options.dataset)
    if options.report:
        return _report(options.dataset, as_json=options.json)
    if dataset.num_images < dataset.num_planned:
        raise ConfigError(f"{options.dataset} is half made; finish its run first")
    viewer = _viewer(dataset, options)
    if options.precompute:
        return _precompute(viewer)
    from sam_engine.web.server import serve

    serve(viewer, port=options.port, open_browser=not options.no_browser, page="#/annotate")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=called("tools.annotate"),
        description=DESCRIPTION,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("dataset", help="a finished dataset; with --input a new directory, too")
    parser.add_argument("--input", help="photos to draw masks on: whatever input= of auto_annotate takes")
    parser.add_argument("--annotator", default=_user(), help="your name (default: that of the account)")
    parser.add_argument(
        "--stage",
        choices=[str(stage) for stage in Stage],
        help="what is shown before: manual, no masks but people's; semi, the confident ones; review, all\n"
        "(default: manual with --input, else review)",
    )
    parser.add_argument("--queue", choices=ORDERS, default="stability", help="which image is next")
    parser.add_argument("--seed", type=int, default=0, help="of --queue random")
    parser.add_argument("--port", type=int, default=8765, help="of 127.0.0.1; 0 for any (default 8765)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    parser.add_argument("--images", help="the input, if it is not where the run found it any more")
    for name, what in (("pred-iou", "predicted IoU"), ("stability-score", "stability score")):
        parser.add_argument(
            f"--{name}-thresh", type=float, metavar="N", help=f"{what} of a confident mask (default: model's)"
        )
    parser.add_argument("--model", choices=MODELS, default=DEFAULT_MODEL, help="what answers clicks")
    parser.add_argument("--checkpoint", help="its weights: known name, path or URL; default: the model's own")
    parser.add_argument("--device", default="auto", help="where it runs: auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--precompute", action="store_true", help="only encode all images ahead, for clicks")
    parser.add_argument("--report", action="store_true", help="only print what was done, in how much time")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser


def begin_bare(photos: str, output: str) -> None:
    """Make a dataset of rows without masks of all photos, or go on with it, through the ordinary shards.

    Raises:
        ConfigError: There are no photos, or the output is another dataset.
    """
    from sam_engine.annotation.run import annotate_dataset

    summary = annotate_dataset(
        AutoAnnotateConfig(
            input=photos,
            output=output,
            model=ModelConfig(name=NO_MODEL, device="cpu"),
            executor=ExecutorConfig(name="inline"),
            max_failed_fraction=1.0,
            previews=0,
        )
    )
    failed = f", {summary.totals.num_failed:,} of them cannot be used" if summary.totals.num_failed else ""
    sys.stderr.write(f"{output}: {summary.num_images:,} images{failed}\n")


def _viewer(dataset: Dataset, options: argparse.Namespace) -> "Viewer":
    """Return what the server answers from."""
    try:
        from sam_engine.web.annotate_routes import Annotator
        from sam_engine.web.annotating import Annotating
        from sam_engine.web.app import Viewer
        from sam_engine.web.prompting import make_prompt_model
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is missing: pip install starlette uvicorn") from error
    from sam_engine.web.acts import is_name

    if not is_name(options.annotator):
        raise ConfigError(f"--annotator is {options.annotator!r}; give a name")
    model = ModelConfig(name=options.model, checkpoint=options.checkpoint, device=options.device)
    viewer = Viewer(dataset, images=options.images, model=make_prompt_model(model))
    name = str((dataset.run_info.get("settings") or {}).get("model.name"))
    usual = MODELS[name].thresholds if name in MODELS else Thresholds()
    default = Stage.MANUAL if options.input is not None else Stage.REVIEW
    viewer.annotator = Annotator(
        annotating=Annotating(dataset, viewer.places),
        name=options.annotator,
        stage=Stage(options.stage) if options.stage else default,
        order=options.queue,
        seed=options.seed,
        confident=Thresholds(
            pred_iou_thresh=_given(options.pred_iou_thresh, usual.pred_iou_thresh),
            stability_score_thresh=_given(options.stability_score_thresh, usual.stability_score_thresh),
        ),
    )
    return viewer


def _given(value: float | None, default: float) -> float:
    return default if value is None else value


def _precompute(viewer: "Viewer") -> int:
    """Encode every image that is not in the cache yet."""
    prompting = viewer.prompting
    done = failed = 0
    for record in viewer.dataset.records():
        if record.status.is_failure:
            continue
        try:
            prompting.model.embedding(prompting.images.image_of(record))
            done += 1
        except ImageError as error:
            failed += 1
            sys.stderr.write(f"image {record.image_id}: {error}\n")
    sys.stderr.write(f"{done:,} images are encoded{f', {failed:,} cannot be' if failed else ''}\n")
    return 0


def _report(dataset: str, *, as_json: bool) -> int:
    """Print a line for each person and stage."""
    rows = work_report(read_corrections(Path(dataset)))
    if as_json:
        sys.stdout.write(json.dumps(rows) + "\n")
        return 0
    for row in rows:
        sys.stdout.write(f"{row['by']}, {row['stage']}: {_in_words(row)}\n")
    if not rows:
        sys.stdout.write("nobody has corrected anything yet\n")
    return 0


def _in_words(row: dict[str, Any]) -> str:
    """Return a row of the report as a line."""
    parts = [
        f"{row['images']:,} images, {row['exhaustive']:,} of them exhaustive",
        f"{row['drawn']:,} masks drawn, {row['replaced']:,} mended, {row['accepted']:,} accepted, "
        f"{row['deleted']:,} deleted",
        f"{row['prompts']:,} prompts",
        f"{row['seconds'] / 60:,.1f} minutes",
    ]
    if row["masks_per_hour"]:
        parts.append(f"{row['masks_per_hour']:,} masks an hour")
    return "; ".join(parts)


def _user() -> str:
    """Return the account's name; it may have none, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}" if hasattr(os, "getuid") else "user"


if __name__ == "__main__":
    command_line(main)
