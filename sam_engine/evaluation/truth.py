"""Ground truth, image by image, whatever it is written in. No torch.

Read are SA-1B's files in a tar or a folder, our own datasets, and COCO instances. Images without a mask that
covers a pixel are passed over, because there is nothing to score on them; so are COCO's crowds.
"""

import io
import json
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam_engine.errors import ConfigError, ImageError, InputError, RleError
from sam_engine.ops.rle import Runs, area_of, counts_to_runs, decode_runs, mask_to_runs, runs_to_counts

KINDS = "an SA-1B tar or folder, a dataset of pipelines.auto_annotate, or a COCO .json file"


@dataclass(frozen=True, kw_only=True, eq=False)
class TruthImage:
    """One image and its N annotated masks, none of them empty."""

    image_id: int
    pixels: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    runs: tuple[Runs, ...]
    """Run lengths of each mask, see `sam_engine.ops.rle`."""
    areas: tuple[float, ...]
    """As annotated, in pixels: what decides between small, medium and large."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def masks(self) -> list[NDArray[np.bool_]]:
        """(H, W) each."""
        return [decode_runs(runs, self.size) for runs in self.runs]

    @property
    def rles(self) -> list[dict[str, Any]]:
        """Each mask as pycocotools takes it."""
        return [{"size": list(self.size), "counts": runs_to_counts(runs).encode()} for runs in self.runs]


@dataclass(frozen=True, kw_only=True)
class Truth:
    """One set of ground truth."""

    name: str
    """Short, for tables and file names."""
    num_images: int
    """Listed; those without masks are among them."""
    read: Callable[[], Iterator[TruthImage]]

    def first(self, limit: int | None) -> Iterator[TruthImage]:
        """Yield the first ``limit`` images that have masks; all if None."""
        return islice(self.read(), limit)


def open_truth(path: str | Path, images: str | None = None) -> Truth:
    """Return the ground truth that a path names.

    Args:
        path: A tar or folder of ``<name>.jpg`` and ``<name>.json`` pairs as in SA-1B, a dataset directory, or
            a COCO instances file.
        images: Where the images are: needed for COCO, and for a dataset whose input was moved.

    Raises:
        ConfigError: There is no such thing, or it is of a kind that is not read. While reading: `InputError`,
            if an annotation contradicts its image.
    """
    place = Path(path)
    if (place / "_meta" / "run.json").is_file():
        return _open_dataset(place, images)
    if place.is_dir():
        return _open_folder(place)
    if place.is_file() and place.suffix == ".json":
        return _open_coco(place, images)
    if place.is_file():
        return _open_tar(place)
    raise ConfigError(f"truth: there is no file or folder {str(path)!r}; give {KINDS}")


def _open_tar(path: Path) -> Truth:
    """Return the pairs of a tar, in the order of the archive."""
    try:
        with tarfile.open(path) as archive:
            names = archive.getnames()
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"{path}: cannot be read as a tar archive ({error}); give {KINDS}") from error
    pairs = _pairs(names, str(path))

    def read() -> Iterator[TruthImage]:
        with tarfile.open(path) as archive:
            for image, annotations in pairs:
                found = _sa1b_image(f"{path}/{image}", _member(archive, image), _member(archive, annotations))
                if found is not None:
                    yield found

    return Truth(name=path.stem, num_images=len(pairs), read=read)


def _open_folder(path: Path) -> Truth:
    """Return the pairs of a folder, by name."""
    pairs = _pairs(sorted(entry.name for entry in path.iterdir()), str(path))

    def read() -> Iterator[TruthImage]:
        for image, annotations in pairs:
            found = _sa1b_image(
                f"{path}/{image}", (path / image).read_bytes(), (path / annotations).read_bytes()
            )
            if found is not None:
                yield found

    return Truth(name=path.name, num_images=len(pairs), read=read)


def _pairs(names: list[str], where: str) -> list[tuple[str, str]]:
    """Return (image, annotations) of every stem that has both."""
    present = set(names)
    pairs = [(name, f"{name[:-4]}.json") for name in names if name.endswith(".jpg")]
    pairs = [pair for pair in pairs if pair[1] in present]
    if not pairs:
        raise InputError(f"{where}: holds no sa_<id>.jpg with sa_<id>.json beside it; give {KINDS}")
    return pairs


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    """Return the bytes of a regular file in a tar."""
    file = archive.extractfile(name)
    if file is None:
        raise InputError(f"{name} in the tar archive is no regular file")
    return file.read()


def _sa1b_image(where: str, image: bytes, annotations: bytes) -> TruthImage | None:
    """Return an image of SA-1B's form; None if it has no masks."""
    try:
        record = json.loads(annotations)
        image_id = int(record["image"]["image_id"])
        texts = [
            (a["segmentation"]["counts"], tuple(a["segmentation"]["size"])) for a in record["annotations"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{where}: its annotations are not SA-1B's ({error!r})") from error
    pixels = _decode(where, image)
    runs = [_checked_runs(where, counts, size, pixels) for counts, size in texts]
    return _truth_image(image_id, pixels, [(r, float(area_of(r))) for r in runs])


def _open_dataset(path: Path, images: str | None) -> Truth:
    """Return the annotated images of one of our datasets, in order of their ids."""
    from sam_engine.dataset.originals import open_originals
    from sam_engine.dataset.reader import open_dataset

    dataset = open_dataset(path)
    originals = open_originals(dataset.run_info, images)

    def read() -> Iterator[TruthImage]:
        for record in dataset.checked_records():
            if not record.annotations:
                continue
            where = f"{path}, image {record.image_id}"
            try:
                pixels = originals.pixels(record)
            except ImageError as error:
                raise InputError(f"{where}: {error}") from error
            runs = [_checked_runs(where, a.counts, a.size, pixels) for a in record.annotations]
            found = _truth_image(record.image_id, pixels, [(r, float(area_of(r))) for r in runs])
            if found is not None:
                yield found

    return Truth(name=path.name, num_images=dataset.num_images, read=read)


def _open_coco(path: Path, images: str | None) -> Truth:
    """Return the images of a COCO instances file, in order of their ids."""
    if images is None:
        raise ConfigError(f"{path} holds annotations alone; images=FOLDER says where its images are")
    try:
        document = json.loads(path.read_bytes())
        listed = sorted(document["images"], key=lambda image: image["id"])
        annotations: Mapping[int, list[Any]] = defaultdict(list)
        for annotation in document["annotations"]:
            if not annotation.get("iscrowd"):
                annotations[annotation["image_id"]].append(annotation)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no COCO instances file ({error!r}); give {KINDS}") from error

    def read() -> Iterator[TruthImage]:
        for image in listed:
            if not annotations.get(image["id"]):
                continue
            where = Path(images) / image["file_name"]
            try:
                pixels = _decode(str(where), where.read_bytes())
            except OSError as error:
                raise InputError(f"{where}: {error.strerror or error}; images= is the folder") from error
            found = _truth_image(
                image["id"],
                pixels,
                [_coco_mask(str(where), annotation, pixels) for annotation in annotations[image["id"]]],
            )
            if found is not None:
                yield found

    return Truth(name=path.stem, num_images=len(listed), read=read)


def _coco_mask(where: str, annotation: Mapping[str, Any], pixels: NDArray[np.uint8]) -> tuple[Runs, float]:
    """Return the run lengths of a COCO annotation, polygons or run lengths, and its annotated area."""
    segmentation, size = annotation.get("segmentation"), pixels.shape[:2]
    if isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), str):
        runs = _checked_runs(where, segmentation["counts"], tuple(segmentation["size"]), pixels)
    elif isinstance(segmentation, dict):
        runs = np.asarray(segmentation.get("counts", []), dtype=np.int64)
        if runs.ndim != 1 or (runs < 0).any() or runs.sum() != size[0] * size[1]:
            raise InputError(f"{where}: run lengths do not fit an image of {size[0]} x {size[1]}")
    else:
        runs = _polygon_runs(where, segmentation, size)
    return runs, float(annotation.get("area", area_of(runs)))


def _polygon_runs(where: str, polygons: Any, size: tuple[int, ...]) -> Runs:
    """Return the run lengths of COCO polygons, rasterised as pycocotools does."""
    from pycocotools import mask as mask_utils

    try:
        parts = [[float(value) for value in polygon] for polygon in polygons]
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: neither polygons nor run lengths ({error})") from error
    parts = [part for part in parts if len(part) >= 6]  # pycocotools takes four numbers for a box
    if not parts:
        return np.array([size[0] * size[1]], dtype=np.int64)
    merged = mask_utils.merge(mask_utils.frPyObjects(parts, size[0], size[1]))
    return mask_to_runs(mask_utils.decode(merged).astype(bool))


def _checked_runs(where: str, counts: str | bytes, size: tuple[int, ...], pixels: NDArray[np.uint8]) -> Runs:
    """Return run lengths that are known to fit the image."""
    if tuple(size) != pixels.shape[:2]:
        raise InputError(f"{where}: a mask of {size} lies on an image of {pixels.shape[:2]} (H, W)")
    try:
        return counts_to_runs(counts, (int(size[0]), int(size[1])))
    except RleError as error:
        raise InputError(f"{where}: {error}") from error


def _decode(where: str, data: bytes) -> NDArray[np.uint8]:
    """Return the RGB pixels of a JPEG or PNG as stored: annotators' tools did not turn them."""
    from PIL import Image, UnidentifiedImageError

    try:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(f"{where}: {error}") from error


def _truth_image(
    image_id: int, pixels: NDArray[np.uint8], masks: list[tuple[Runs, float]]
) -> TruthImage | None:
    """Return the image with those of its masks that cover a pixel; None if there are none."""
    present = [(runs, area) for runs, area in masks if area_of(runs)]
    if not present:
        return None
    runs, areas = zip(*present, strict=True)
    return TruthImage(image_id=image_id, pixels=pixels, runs=runs, areas=areas)
