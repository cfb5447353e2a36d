"""Hand a dataset on: python -m tools.export OUT --to FORM --output PATH."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from sam_engine.__main__ import called
from sam_engine.config import BLURS, PrivacyConfig
from sam_engine.dataset.correction_log import read_corrections
from sam_engine.dataset.manifest import Manifest
from sam_engine.dataset.originals import Originals, open_images
from sam_engine.dataset.reader import Dataset, open_dataset
from sam_engine.dataset.schema import MANIFEST
from sam_engine.errors import ConfigError, InputError
from sam_engine.files import refuse_used
from sam_engine.formats.each_image import ExportSummary
from sam_engine.formats.export import EXPORTS, export_dataset
from sam_engine.privacy.box_table import KINDS as BOX_TABLE
from sam_engine.privacy.open import Blur, open_blur

from .command import command_line

FORMS = "\n".join(
    f"{name:<13} {form.about}{'; comes back' if form.comes_back else ''}" for name, form in EXPORTS.items()
)
DESCRIPTION = f"""Write a dataset in a form that other tools read. It appears when it is whole.

{FORMS}

"comes back": corrected there, tools.import_annotations makes corrections of it."""
OPTIONS = sorted({name for form in EXPORTS.values() for name in form.options})


def main(arguments: Sequence[str] | None = None) -> int:
    """Export; print what was written."""
    parser = _parser()
    options = parser.parse_args(arguments)
    form = EXPORTS[options.to]
    given = {name: value for name in OPTIONS if (value := getattr(options, name))}
    if (options.blur == "boxes") != (options.boxes is not None):
        parser.error("--blur boxes and --boxes TABLE go together")
    dataset = open_dataset(options.dataset)
    if not options.partial:
        dataset.refuse_half_made("--partial")
    corrections = read_corrections(options.dataset)
    if options.corrections == "ignore" and corrections:
        sys.stderr.write(f"corrections of {len(corrections)} images are ignored\n")
        corrections = {}
    refuse_used(options.output)  # before the images are listed, which may take minutes
    wanted = not form.copies_on_demand or options.images is not None
    blur = open_blur(PrivacyConfig(blur=options.blur, boxes=options.boxes))
    originals = _find_originals(dataset, options.images) if wanted else None
    if blur is not None:
        originals = _blurred(originals, blur, dataset)
    summary = export_dataset(
        dataset, options.output, to=options.to, originals=originals, corrections=corrections, **given
    )
    document = asdict(summary)
    if blur is not None:
        document |= {"blurred": {"images": blur.num_images, "regions": blur.num_regions}}
    text = json.dumps(document) if options.json else describe(summary, options.output)
    if blur is not None and not options.json:
        text += f"\n{blur.describe()}"
    sys.stdout.write(text + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    parser = argparse.ArgumentParser(
        prog=called("tools.export"), description=DESCRIPTION, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("dataset", help="directory that pipelines.auto_annotate wrote")
    parser.add_argument("--to", choices=tuple(EXPORTS), required=True, help="form to write")
    parser.add_argument(
        "--output", type=Path, required=True, help="coco: a new .json file. Others: a new folder"
    )
    parser.add_argument(
        "--images",
        nargs="?",
        const="",
        metavar="INPUT",
        help="the input, if it is not where the run found it any more. coco: copy the images, too",
    )
    parser.add_argument("--tar", action="store_true", help="sa1b: one tar per shard instead of single files")
    parser.add_argument("--rle", choices=("compressed", "uncompressed"), help="coco: form of the run lengths")
    parser.add_argument(
        "--iscrowd",
        action="store_true",
        help="coco: say iscrowd 1, which some readers of run lengths want",
    )
    parser.add_argument(
        "--polygons", action="store_true", help="coco: polygons instead, for readers without run lengths"
    )
    parser.add_argument(
        "--corrections",
        choices=("apply", "ignore"),
        default="apply",
        help="what people corrected (default: apply)",
    )
    parser.add_argument(
        "--blur", choices=BLURS, default="none", help="what copies of images must not show (default: none)"
    )
    parser.add_argument("--boxes", metavar="TABLE", help=f"of --blur boxes: {BOX_TABLE}")
    parser.add_argument("--partial", action="store_true", help="export what is there of a half-made dataset")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def describe(summary: ExportSummary, output: Path) -> str:
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
    if (loss := summary.polygons) is not None:
        lines.append(
            f"polygons: mean IoU {loss.mean_iou:.4f} with the masks; {loss.num_lost} too thin left out"
        )
    if summary.licences:
        terms = ", ".join(f"{count} {licence}" for licence, count in summary.licences.items())
        lines.append(f"licences of the images: {terms}")
    return "\n".join(lines)


def _find_originals(dataset: Dataset, images: str | None) -> Originals | None:
    """Return the images; None, and a line that says so, if they are gone and nobody asked for them."""
    try:
        return open_images(dataset, images or None)
    except InputError as error:
        if images is not None:
            raise
        sys.stderr.write(f"annotations only: {error} (--images says where the images are)\n")
        return None


def _blurred(originals: Originals | None, blur: Blur, dataset: Dataset) -> Originals:
    """Return the images as they are copied: blurred. What does not fit them is written to stderr.

    Raises:
        ConfigError: No images are copied, or the table of boxes knows none of them.
    """
    if originals is None:
        raise ConfigError("--blur has nothing to blur: no images are copied")
    manifest = Manifest.from_bytes(dataset.store.read(MANIFEST))
    for note in blur.notes(manifest.table["path_bytes"].to_pylist()):
        sys.stderr.write(note + "\n")
    return replace(originals, hide=blur)


if __name__ == "__main__":
    command_line(main)
