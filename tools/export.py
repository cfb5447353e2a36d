"""Hand a dataset on: python -m tools.export OUT --to FORM --output PATH."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sam_engine.__main__ import called
from sam_engine.config import BLURS, PrivacyConfig
from sam_engine.dataset.correction_log import read_corrections
from sam_engine.dataset.corrections import Correction
from sam_engine.dataset.manifest import Manifest
from sam_engine.dataset.originals import Originals, open_images
from sam_engine.dataset.reader import Dataset, open_dataset
from sam_engine.dataset.schema import MANIFEST
from sam_engine.errors import ConfigError, InputError
from sam_engine.files import refuse_used
from sam_engine.formats.coco_export import CocoForm, export_coco
from sam_engine.formats.cvat import export_cvat
from sam_engine.formats.huggingface import export_huggingface
from sam_engine.formats.label_studio import export_label_studio
from sam_engine.formats.labelme import export_labelme
from sam_engine.formats.polygons import PolygonLoss
from sam_engine.formats.sa1b import export_sa1b
from sam_engine.formats.source import ExportSummary
from sam_engine.formats.webdataset import export_webdataset
from sam_engine.formats.yolo import export_yolo
from sam_engine.privacy.box_table import KINDS as BOX_TABLE
from sam_engine.privacy.open import Blur, open_blur

from .command import command_line

Written = tuple[ExportSummary, PolygonLoss | None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every form is written from."""

    dataset: Dataset
    output: Path
    originals: Originals | None
    corrections: Mapping[int, Sequence[Correction]]
    options: argparse.Namespace

    @property
    def common(self) -> dict[str, Any]:
        """What every exporter takes beside the dataset and the output."""
        return {"originals": self.originals, "corrections": self.corrections}


def _coco(job: Job) -> Written:
    segmentation = "polygons" if job.options.polygons else job.options.rle or "compressed"
    form = CocoForm(segmentation=segmentation, iscrowd=job.options.iscrowd)
    return export_coco(job.dataset, job.output, form=form, **job.common)


def _sa1b(job: Job) -> Written:
    return export_sa1b(job.dataset, job.output, tar=job.options.tar, **job.common), None


def _labelme(job: Job) -> Written:
    return export_labelme(job.dataset, job.output, **job.common), None


def _yolo(job: Job) -> Written:
    return export_yolo(job.dataset, job.output, **job.common)


def _label_studio(job: Job) -> Written:
    return export_label_studio(job.dataset, job.output, **job.common), None


def _cvat(job: Job) -> Written:
    return export_cvat(job.dataset, job.output, **job.common), None


def _webdataset(job: Job) -> Written:
    return export_webdataset(job.dataset, job.output, **job.common), None


def _huggingface(job: Job) -> Written:
    return export_huggingface(job.dataset, job.output, **job.common), None


@dataclass(frozen=True, kw_only=True)
class Form:
    """One row of the table of what can be written."""

    about: str
    write: Callable[[Job], Written]
    images_on_demand: bool = False
    """Copies are made if --images is given; of other forms wherever the images can be had."""
    flags: tuple[str, ...] = ()
    """Of its own; refused with other forms."""


FORMS = {
    "sa1b": Form(
        about="sa_<id>.json (and sa_<id>.jpg, upright, where the images can be had) in a folder, or in tars",
        write=_sa1b,
        flags=("tar",),
    ),
    "coco": Form(
        about='one COCO instances file, category "object", masks as RLE or polygons; with --images\n'
        "      upright copies in a folder of the file's name; comes back",
        write=_coco,
        images_on_demand=True,
        flags=("rle", "iscrowd", "polygons"),
    ),
    "labelme": Form(about="one .json (and .jpg) an image, masks as they are; comes back", write=_labelme),
    "label-studio": Form(
        about="tasks.json with brush masks, label_config.xml and images/; comes back", write=_label_studio
    ),
    "cvat": Form(
        about="annotations.xml of CVAT for images 1.1, labels.json and images/; comes back", write=_cvat
    ),
    "webdataset": Form(about="tars of <id>.jpg and <id>.json (SA-1B's), one a shard", write=_webdataset),
    "huggingface": Form(
        about="data/train-*.parquet with the images inside, and a dataset card", write=_huggingface
    ),
    "yolo": Form(
        about="labels/, images/ and data.yaml of YOLO's segmentation: polygons, whose loss is said",
        write=_yolo,
    ),
}

DESCRIPTION = "Write a dataset in a form that other tools read.\n\n{}\n\n{}".format(
    "\n".join(f"{name}  {form.about}" for name, form in FORMS.items()),
    '"comes back": corrected there, tools.import_annotations makes corrections of it.',
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Export; print what was written."""
    parser = _parser()
    options = parser.parse_args(arguments)
    form = FORMS[options.to]
    for name in sorted({flag for each in FORMS.values() for flag in each.flags} - set(form.flags)):
        if getattr(options, name):
            takers = ", ".join(each for each in FORMS if name in FORMS[each].flags)
            parser.error(f"--{name} goes with --to {takers}")
    if options.polygons and (options.rle or options.iscrowd):
        parser.error("--polygons goes without --rle and --iscrowd, which are about run lengths")
    if (options.blur == "boxes") != (options.boxes is not None):
        parser.error("--blur boxes and --boxes TABLE go together")
    dataset = open_dataset(options.dataset)
    if not options.partial:
        dataset.refuse_half_made("--partial")
    corrections = read_corrections(Path(options.dataset))
    if options.corrections == "ignore" and corrections:
        sys.stderr.write(f"corrections of {len(corrections)} images are ignored\n")
        corrections = {}
    refuse_used(options.output)  # before the images are listed, which may take minutes
    wanted = not form.images_on_demand or options.images is not None
    blur = open_blur(PrivacyConfig(blur=options.blur, boxes=options.boxes))
    originals = _find_originals(dataset, options.images) if wanted else None
    if blur is not None:
        originals = _blurred(originals, blur, dataset)
    job = Job(
        dataset=dataset, output=options.output, originals=originals, corrections=corrections, options=options
    )
    summary, loss = form.write(job)
    document = asdict(summary) | ({"polygons": asdict(loss)} if loss else {})
    if blur is not None:
        document |= {"blurred": {"images": blur.num_images, "regions": blur.num_regions}}
    text = json.dumps(document) if options.json else describe(summary, options.output, loss)
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
    parser.add_argument("--to", choices=tuple(FORMS), required=True, help="form to write")
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
