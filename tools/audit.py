"""How good a dataset is, by people who look at a sample of it: python -m tools.audit OUT --sample 50."""

import argparse
import getpass
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sam_engine.__main__ import called
from sam_engine.dataset.audit import audit_report, draw_sample, read_sample
from sam_engine.dataset.correction_log import read_corrections
from sam_engine.dataset.reader import Dataset, open_dataset
from sam_engine.errors import ConfigError

from .command import command_line

DESCRIPTION = """Draw images of a dataset, have people judge all their masks, and say how good they are.

  audit OUT --sample 50        draw 50 images, which the dataset keeps (audit/sample.json)
  audit OUT                    judge them in the browser: correct, accept, delete, and say what is missing
  audit OUT --report           what is known until now; --json for programs

As in section 5 of the Segment Anything paper, where 94 % of the pairs of automatic and corrected masks had
an IoU above 0.9. Corrections are those of tools.annotate: they stay in the dataset's log. Judging needs the
extra `viewer`, the rest does not.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw, report, or serve until interrupted."""
    parser = argparse.ArgumentParser(
        prog=called("tools.audit"), description=DESCRIPTION, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("dataset", help="a finished dataset")
    parser.add_argument("--sample", type=int, metavar="N", help="draw so many images, and do no more")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default 0)")
    parser.add_argument("--report", action="store_true", help="say what is known until now")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--annotator", default=_user(), help="your name (default: that of the account)")
    parser.add_argument("--port", type=int, default=8765, help="of 127.0.0.1; 0 for any (default 8765)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    parser.add_argument("--images", help="the input, if it is not where the run found it any more")
    options = parser.parse_args(arguments)
    if options.sample is not None and options.report:
        parser.error("--sample and --report are two things: draw, then judge, then report")
    if options.seed < 0:
        parser.error(f"--seed is {options.seed}; give 0 or more")
    dataset = open_dataset(options.dataset)
    if dataset.num_images < dataset.num_planned:
        raise ConfigError(f"{options.dataset} is half made; finish its run first")
    if options.sample is not None:
        sample = draw_sample(dataset, num_images=options.sample, seed=options.seed)
        sys.stdout.write(f"{len(sample.image_ids)} of {sample.num_images} images were drawn\n")
        return 0
    if options.report:
        report = audit_report(dataset, read_sample(dataset), read_corrections(Path(options.dataset)))
        sys.stdout.write((json.dumps(report) if options.json else describe(report)) + "\n")
        return 0
    _serve(dataset, options)
    return 0


def describe(report: dict[str, Any]) -> str:
    """Return a report in sentences."""
    images, masks, iou, found = (report[key] for key in ("images", "masks", "iou", "exhaustiveness"))
    lines = [
        f"{images['judged']} of {images['sampled']} sampled images are judged, "
        f"drawn from {images['annotated']}",
        f"{masks['judged']} masks: {masks['left_as_they_were']} left as they were, "
        f"{masks['corrected']} corrected, {masks['deleted']} deleted",
    ]
    for mark, share in iou["above"].items():
        lines.append(
            f"IoU of automatic and corrected masks above {mark}: "
            f"{_percent(share['share'])} of {iou['pairs']} pairs"
            + (f", plus or minus {100 * share['plus_minus']:.1f}" if share["plus_minus"] else "")
        )
    lines.append(f"mean {iou['mean']}, median {iou['median']}")
    lines.append(
        f"exhaustiveness: {_percent(found['share_found'])} of things have a mask, {found['missing']} have "
        f"none; {found['complete_images']} images lack nothing"
    )
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "unknown share" if share is None else f"{100 * share:.1f} %"


def _serve(dataset: Dataset, options: argparse.Namespace) -> None:
    """Serve the sample until interrupted."""
    sample = read_sample(dataset)
    try:
        from sam_engine.web.acts import is_name
        from sam_engine.web.annotate_routes import Annotator
        from sam_engine.web.annotating import Annotating
        from sam_engine.web.app import Viewer
        from sam_engine.web.audit_routes import Audit
        from sam_engine.web.server import serve
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is missing: pip install starlette uvicorn") from error
    if not is_name(options.annotator):
        raise ConfigError(f"--annotator is {options.annotator!r}; give a name")
    viewer = Viewer(dataset, images=options.images)
    annotating = Annotating(dataset, viewer.places)
    viewer.annotator = Annotator(annotating=annotating, name=options.annotator)
    viewer.audit = Audit(
        dataset=dataset,
        places=viewer.places,
        sample=sample,
        annotating=annotating,
        name=options.annotator,
    )
    serve(viewer, port=options.port, open_browser=not options.no_browser, page="#/audit")


def _user() -> str:
    """Return the account's name; it may have none, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"


if __name__ == "__main__":
    command_line(main)
