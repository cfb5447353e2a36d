"""Hand a dataset on: python -m tools.export OUT --to sa1b|coco|labelme|yolo --output PATH."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from sam_engine.__main__ import called
from sam_engine.dataset.corrections import read_corrections
from sam_engine.dataset.originals import Originals, open_originals
from sam_engine.dataset.reader import Dataset, open_dataset
from sam_engine.errors import InputError
from sam_engine.files import refuse_used
from sam_engine.formats.coco import export_coco
from sam_engine.formats.labelme import export_labelme
from sam_engine.formats.sa1b import export_sa1b
from sam_engine.formats.source import ExportSummary
from sam_engine.formats.yolo import PolygonLoss, export_yolo

from .command import run

DESCRIPTION = """Write a dataset in a form that other tools read.

sa1b  sa_<id>.json (and sa_<id>.jpg, upright, where the images can be had) in a folder, or in tars
coco  one COCO instances file, category "object", masks as compressed RLE
labelme  one .json (and .jpg) an image, masks as they are; comes back by tools.import_annotations
yolo  labels/, images/ and data.yaml of YOLO's segmentation: polygons, whose loss is said
"""

FOLDERS = ("sa1b", "labelme", "yolo")
"""Forms that are a folder, and take copies of the images."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Export; print what was written."""
    parser = argparse.ArgumentParser(
        prog=called("tools.export"), description=DESCRIPTION, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("dataset", help="directory that pipelines.auto_annotate wrote")
    parser.add_argument("--to", choices=("coco", *FOLDERS), required=True, help="form to write")
    parser.add_argument(
        "--output", type=Path, required=True, help="coco: a new .json file. Others: a new folder"
    )
    parser.add_argument("--images", help="not coco: the input, if it is not where the run found it any more")
    parser.add_argument("--tar", action="store_true", help="sa1b: one tar per shard instead of single files")
    parser.add_argument(
        "--corrections",
        choices=("apply", "ignore"),
        default="apply",
        help="what people corrected (default: apply)",
    )
    parser.add_argument("--partial", action="store_true", help="export what is there of a half-made dataset")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    options = parser.parse_args(arguments)
    if options.images and options.to not in FOLDERS:
        parser.error(f"--images goes with --to {', '.join(FOLDERS)}")
    if options.tar and options.to != "sa1b":
        parser.error("--tar goes with --to sa1b")
    dataset = open_dataset(options.dataset)
    if not options.partial:
        dataset.refuse_half_made("--partial")
    corrections = read_corrections(Path(options.dataset))
    if options.corrections == "ignore" and corrections:
        sys.stderr.write(f"corrections of {len(corrections)} images are ignored\n")
        corrections = {}
    refuse_used(options.output)  # before the images are listed, which may take minutes
    originals = _find_originals(dataset, options.images) if options.to in FOLDERS else None
    loss = None
    if options.to == "coco":
        summary = export_coco(dataset, options.output, corrections=corrections)
    elif options.to == "sa1b":
        summary = export_sa1b(
            dataset, options.output, originals=originals, tar=options.tar, corrections=corrections
        )
    elif options.to == "labelme":
        summary = export_labelme(dataset, options.output, originals=originals, corrections=corrections)
    else:
        summary, loss = export_yolo(dataset, options.output, originals=originals, corrections=corrections)
    document = asdict(summary) | ({"polygons": asdict(loss)} if loss else {})
    text = json.dumps(document) if options.json else describe(summary, options.output, loss)
    sys.stdout.write(text + "\n")
    return 0


def describe(summary: ExportSummary, output: Path, loss: PolygonLoss | None = None) -> str:
    """Return a summary in sentences."""
    lines = [f"{output}: {summary.num_images} images, {summary.num_masks} masks"]
    if summary.num_copies:
        lines.append(f"{summary.num_copies} images were copied, upright, as JPEG")
    if summary.missing:
        reasons = ", ".join(f"{count} {status}" for status, count in summary.missing.items())
        lines.append(
            f"images that could not be copied, whose annotations were written all the same: {reasons}"
        )
    if summary.num_corrected:
        lines.append(f"corrections of {summary.num_corrected} images were applied")
    if summary.num_missing:
        lines.append(f"partial: {summary.num_missing} images were not made yet")
    if summary.num_failed:
        lines.append(f"{summary.num_failed} images failed in the run and were left out")
    if loss is not None:
        lines.append(
            f"polygons: mean IoU {loss.mean_iou:.4f} with the masks; {loss.num_lost} too thin left out"
        )
    return "\n".join(lines)


def _find_originals(dataset: Dataset, images: str | None) -> Originals | None:
    """Return the images; None, and a line that says so, if they are gone and nobody said where to."""
    try:
        return open_originals(dataset.run_info, images)
    except InputError as error:
        if images is not None:
            raise
        sys.stderr.write(f"annotations only: {error} (--images says where the images are)\n")
        return None


if __name__ == "__main__":
    sys.exit(run(main))
