"""Does the engine find what segment_anything finds? python -m tools.equivalence OUT --images PHOTOS.

OUT receives the images as they are used, the weights, and one dataset for each side: ``engine``, made as
`pipelines.auto_annotate` makes it; ``reference``, made by the mask generator of the segment_anything package
with the same weights, image by image; and ``noise``, made by the reference once more with another number of
points at once, which changes nothing but rounding. Engine and noise are then compared with the reference as
`tools.compare_runs` does.

Every image is published as soon as it is done: the same command goes on where it was stopped. To make one
side again, delete its folder. Random weights of vit_* are calibrated, see `tools.bench.calibration`; their
masks are much alike, and ``--box-nms-thresh 1`` keeps the hundreds that NMS would drop.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from sam_engine.__main__ import called
from sam_engine.annotation.plan import Plan
from sam_engine.annotation.preparation import prepare
from sam_engine.annotation.run import RunEvent, annotate_dataset, run_prepared
from sam_engine.catalogue import DEFAULT_MODEL, MODELS
from sam_engine.config import (
    MODEL_NAMES,
    AmgConfig,
    AutoAnnotateConfig,
    DecodeConfig,
    ExecutorConfig,
    ModelConfig,
)
from sam_engine.dataset.compare import Comparison, compare_datasets
from sam_engine.dataset.manifest import Manifest, build_manifest
from sam_engine.dataset.reader import open_dataset
from sam_engine.dataset.shards import publish_shard
from sam_engine.errors import ConfigError
from sam_engine.files import new_path
from sam_engine.images.decode import decode_image
from sam_engine.inputs.open import open_input
from sam_engine.structures import Annotation, ImageRecord, ImageStatus, ShardReport, Xywh

from .command import add_amg_flags, command_line
from .compare_runs import amg_settings, describe

SIDES = ("engine", "reference", "noise")
AMG_SETTINGS = (
    "points_per_side",
    "points_per_batch",
    "pred_iou_thresh",
    "stability_score_thresh",
    "box_nms_thresh",
)
WEIGHTS = "weights.pth"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what is missing, compare what is there."""
    options = _parse(arguments)
    out = Path(options.out)
    images = _write_images(out / "images", options.images, options.limit, options.long_side)
    _write_weights(out / WEIGHTS, options, images[0])
    for side in options.sides:
        config = _config(out, side, options)
        if side == "engine":
            annotate_dataset(config, _lines(side))
        else:
            preparation = prepare(config)
            with preparation.store.lock():
                run_prepared(preparation, _lines(side), make_shards=_annotate_with_reference)
    made = [side for side in SIDES if (out / side).exists()]
    others = [side for side in made if side != "reference" and "reference" in made]
    results = {side: compare(out / "reference", out / side) for side in others}
    if options.json:
        sides = {side: {**asdict(total), "shares": total.shares} for side, total in results.items()}
        sys.stdout.write(json.dumps(sides, indent=2) + "\n")
    else:
        for side, total in results.items():
            sys.stdout.write(f"{side} and reference\n{describe(total)}\n\n")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        prog=called("tools.equivalence"),
        description="Compare the engine's masks with segment_anything's, and those with themselves.",
    )
    parser.add_argument("out", help="folder for images, weights and datasets; the same command goes on in it")
    parser.add_argument("--images", nargs="+", required=True, help="inputs, as of pipelines.auto_annotate")
    parser.add_argument(
        "--limit", type=int, default=60, metavar="N", help="images, of the inputs in turn (60)"
    )
    parser.add_argument(
        "--long-side", type=int, default=1024, metavar="PX", help="larger images are made as small (1024)"
    )
    parser.add_argument("--model", choices=MODEL_NAMES, default=DEFAULT_MODEL)
    parser.add_argument(
        "--checkpoint", help="weights; default: bundled for tiny, random and calibrated for vit_*"
    )
    parser.add_argument("--device", default="cpu", help="of all sides, as model.device (cpu)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (1)")
    add_amg_flags(parser, AMG_SETTINGS)
    parser.add_argument(
        "--noise-points-per-batch", type=int, default=16, metavar="N", help="of the second reference (16)"
    )
    parser.add_argument("--noise-limit", type=int, default=12, metavar="N", help="images of it (12)")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES, help="which to make (all)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser.parse_args(arguments)


def compare(reference: Path, other: Path) -> Comparison:
    """Return how the masks of a dataset compare with the reference's, of as many images as both have."""
    first, second = open_dataset(reference), open_dataset(other)
    number = min(first.num_images, second.num_images)
    records = [islice(dataset.records(), number) for dataset in (first, second)]
    pairs = compare_datasets(records[0], records[1], amg_settings(first))
    return sum((comparison for _, comparison in pairs), Comparison())


def _config(out: Path, side: str, options: argparse.Namespace) -> AutoAnnotateConfig:
    """Return the run that makes one side."""
    settings = _amg_settings(options)
    if side == "noise":
        settings["points_per_batch"] = options.noise_points_per_batch
    return AutoAnnotateConfig(
        input=str(out / "images"),
        output=str(out / side),
        model=ModelConfig(name=options.model, checkpoint=str(out / WEIGHTS), device=options.device),
        amg=AmgConfig(**settings),
        executor=ExecutorConfig(name="inline", threads_per_worker=options.threads),
        shard_size=1,
        limit=options.noise_limit if side == "noise" else None,
        previews=0,
    )


def _lines(side: str) -> Callable[[RunEvent], None]:
    """Return what prints a line for each image."""
    manifests: list[Manifest] = []

    def show(event: RunEvent) -> None:
        if isinstance(event, Plan):
            manifests.append(event.manifest)
        elif isinstance(event, ShardReport):
            name = manifests[0].entries(event.shard.start, event.shard.stop)[0].path.decode()
            sys.stderr.write(f"{side} {name}: {event.num_masks} masks, {event.seconds:.1f} s\n")

    return show


def _annotate_with_reference(plan: Plan) -> Generator[ShardReport, None, None]:
    """Annotate what is open with the mask generator of segment_anything."""
    import torch

    from sam_engine.build_sam import load_model
    from sam_engine.catalogue import ARCHITECTURES
    from sam_engine.modeling.precision import cuda_tf32

    from .reference import drive_reference, import_segment_anything

    preparation = plan.preparation
    config = preparation.config
    package = import_segment_anything()
    torch.set_num_threads(config.executor.threads_per_worker)
    sam = load_model(config.model, preparation.checkpoint)
    generator = drive_reference(package, sam, ARCHITECTURES[config.model.name], config.amg, "coco_rle")
    for shard in plan.open_shards:
        started, records = time.monotonic(), []
        for entry in plan.manifest.entries(shard.start, shard.stop):
            data = preparation.source.read(entry, config.decode)
            pixels = decode_image(data, config.decode).pixels
            with cuda_tf32(sam.device, False):
                annotations = tuple(_annotation_of(record) for record in generator.generate(pixels))
            records.append(
                ImageRecord(
                    image_id=entry.image_id,
                    path=entry.path,
                    status=ImageStatus.OK if annotations else ImageStatus.OK_EMPTY,
                    width=pixels.shape[1],
                    height=pixels.shape[0],
                    sha256=hashlib.sha256(data).hexdigest(),
                    annotations=annotations,
                )
            )
        published = publish_shard(preparation.store, records, shard=shard, fingerprint=plan.info.fingerprint)
        yield ShardReport(
            shard=shard,
            statuses=published.summary.statuses,
            num_masks=published.summary.num_masks,
            num_bytes=published.num_bytes,
            sha256=published.sha256,
            seconds=time.monotonic() - started,
            device=sam.device.type,
        )


def _annotation_of(record: Mapping[str, Any]) -> Annotation:
    """Return a mask of the reference, in the mode coco_rle, as a row's annotation."""
    height, width = record["segmentation"]["size"]
    return Annotation(
        size=(height, width),
        counts=record["segmentation"]["counts"],
        bbox=_four(record["bbox"]),
        area=int(record["area"]),
        predicted_iou=float(record["predicted_iou"]),
        stability_score=float(record["stability_score"]),
        crop_box=_four(record["crop_box"]),
        point_coords=tuple((float(x), float(y)) for x, y in record["point_coords"]),
    )


def _four(box: Sequence[float]) -> Xywh:
    x, y, width, height = box
    return float(x), float(y), float(width), float(height)


def _write_images(folder: Path, inputs: Sequence[str], limit: int, long_side: int) -> list[Path]:
    """Write the first images of all inputs in turn, upright, no larger than wanted; return their paths."""
    from PIL import Image

    config, paths = DecodeConfig(), []
    folder.mkdir(parents=True, exist_ok=True)
    for number, (read, name) in enumerate(islice(_in_turn(inputs, config), limit)):
        path = folder / f"{number:04d}-{Path(name).stem}.png"
        paths.append(path)
        if not path.exists():
            image = Image.fromarray(decode_image(read(), config).pixels)
            image.thumbnail((long_side, long_side), Image.Resampling.BICUBIC)
            with new_path(path) as part:
                image.save(part, format="PNG")
    if not paths:
        raise ConfigError(f"--limit is {limit}: no images are left")
    return paths


def _in_turn(inputs: Sequence[str], config: DecodeConfig) -> Iterator[tuple[Callable[[], bytes], str]]:
    """Yield what reads an image, and its name: the first of each input, the second of each, ..."""

    def images(spec: str) -> Iterator[tuple[Callable[[], bytes], str]]:
        source = open_input(spec)
        manifest = build_manifest(source.iter_files())
        for entry in manifest.entries(0, len(manifest)):
            yield partial(source.read, entry, config), entry.path.decode()

    waiting = [images(spec) for spec in inputs]
    while waiting:
        for iterator in list(waiting):
            found = next(iterator, None)
            if found is None:
                waiting.remove(iterator)
            else:
                yield found


def _write_weights(path: Path, options: argparse.Namespace, image: Path) -> None:
    """Write the weights that all sides use, once; random ones are calibrated on an image."""
    if path.exists():
        return
    import torch

    from sam_engine.build_sam import load_model

    from .bench.calibration import save_calibrated

    torch.set_num_threads(options.threads)
    with new_path(path) as part:
        if options.checkpoint is None and MODELS[options.model].bundled is None:
            pixels = decode_image(image.read_bytes(), DecodeConfig()).pixels
            save_calibrated(options.model, pixels, AmgConfig(**_amg_settings(options)), part, options.device)
        else:
            sam = load_model(ModelConfig(name=options.model, checkpoint=options.checkpoint, device="cpu"))
            torch.save(sam.state_dict(), part)


def _amg_settings(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in AMG_SETTINGS}


if __name__ == "__main__":
    command_line(main)
