"""Other tools read what is exported by their own code: every pixel of every mask, and its name.

Each is skipped where its package is not installed. Some do not go together: those that are in an environment
of their own can be put at the end of the path (``sys.path.append``) of the one that runs this.
"""

import contextlib
import importlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sam_engine.dataset.originals import open_originals
from sam_engine.dataset.reader import open_dataset
from sam_engine.formats.export import EXPORTS, export_dataset
from tests.helpers.drawn_data import write_our_dataset

pytestmark = pytest.mark.slow

Found = Iterator[tuple[int, str, np.ndarray]]
"""Image, name and (H, W) mask."""


def pycocotools(path: Path) -> Found:
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(path))
    for each in coco.anns.values():
        yield each["image_id"], coco.cats[each["category_id"]]["name"], coco.annToMask(each)


def supervision(path: Path) -> Found:
    import supervision

    folder = str(path.with_suffix(""))
    read = supervision.DetectionDataset.from_coco(folder, str(path), force_masks=True)
    for name, found in read.annotations.items():
        for mask, number in zip(found.mask if len(found) else (), found.class_id, strict=True):
            yield int(Path(name).stem), read.classes[number], mask


def labelformat(path: Path) -> Found:
    from labelformat.formats.coco import COCOInstanceSegmentationInput

    for label in COCOInstanceSegmentationInput(path / "annotations.json").get_labels():
        for each in label.objects:
            image_id = int(Path(label.image.filename).stem)
            yield image_id, each.category.name, each.segmentation.get_binary_mask()


def lightly_studio(path: Path) -> Found:
    """Runs go row by row there."""
    import lightly_studio
    from lightly_studio import db_manager
    from lightly_studio.models.annotation.annotation_base import AnnotationType

    db_manager.connect(db_file=str(path / "lightly.db"))
    dataset = lightly_studio.ImageDataset.create(name=path.name)
    kind = AnnotationType.SEGMENTATION_MASK
    dataset.add_samples_from_coco(
        path / "annotations.json", path / "images", kind, embed=False, embed_annotations=False
    )
    for sample in dataset:
        for each in sample.annotations:
            runs = np.array(each.segmentation_mask)
            mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(sample.height, sample.width)
            yield int(Path(sample.file_name).stem), each.class_name, mask


def fiftyone(path: Path) -> Found:
    """Its importer, without the database that ``import fiftyone`` starts."""
    database = importlib.import_module("fiftyone.core.odm.database")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "establish_db_conn", lambda config: None)
        coco = importlib.import_module("fiftyone.utils.coco")
        importer = coco.COCODetectionDatasetImporter(str(path), label_types="segmentations")
        with importer:
            for name, metadata, label in importer:
                for each in label.detections if label is not None else ():
                    mask = np.zeros((metadata.height, metadata.width), bool)
                    x, y = each.bounding_box[:2]
                    left, top = round(x * metadata.width), round(y * metadata.height)
                    mask[top : top + each.mask.shape[0], left : left + each.mask.shape[1]] = each.mask
                    yield int(Path(name).stem), each.label, mask


def datumaro(path: Path) -> Found:
    """CVAT's XML as it is, and COCO in the folders that it looks for."""
    from datumaro.components.annotation import AnnotationType
    from datumaro.components.dataset import Dataset

    kind = "cvat"
    if path.is_file():
        kind, file, path = "coco_instances", path, path.with_name("datumaro")
        (path / "annotations").mkdir(parents=True)
        shutil.copy(file, path / "annotations/instances_train.json")
        shutil.copytree(file.with_suffix(""), path / "images/train")
    read = Dataset.import_from(str(path), kind)
    names = read.categories()[AnnotationType.label]
    for item in read:
        for each in item.annotations:
            if each.type == AnnotationType.mask:
                yield int(item.id[-12:]), names[each.label].name, each.image


def label_studio_sdk(path: Path) -> Found:
    spec = importlib.util.find_spec("label_studio_sdk")
    file = Path(spec.submodule_search_locations[0], "converter/brush.py")  # the package needs much else
    module_spec = importlib.util.spec_from_file_location("brush", file)
    brush = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(brush)
    for task in json.loads((path / "tasks.json").read_text()):
        for each in task["annotations"][0]["result"]:
            rgba = brush.decode_rle(each["value"]["rle"])
            alpha = rgba.reshape(each["original_height"], each["original_width"], 4)[..., 3]
            yield task["data"]["image_id"], each["value"]["brushlabels"][0], alpha > 0


def labelme(path: Path) -> Found:
    label_file = importlib.import_module("labelme._label_file")
    for file in sorted(path.glob("*.json")):
        read = label_file.LabelFile(str(file))
        size = json.loads(file.read_text())["imageHeight"], json.loads(file.read_text())["imageWidth"]
        assert read.otherData["origin"]["original_name"] == f"{int(file.stem)}.png"  # it is kept when saved
        for shape in read.shapes:
            mask = np.zeros(size, bool)
            (left, top), (right, bottom) = np.asarray(shape["points"], int)
            mask[top : bottom + 1, left : right + 1] = shape["mask"]
            yield int(file.stem), shape["label"], mask


def webdataset(path: Path) -> Found:
    import webdataset
    from pycocotools import mask as coco_mask

    tars = sorted(map(str, path.glob("*.tar")))
    for sample in webdataset.WebDataset(tars, shardshuffle=False).decode("rgb8"):
        image = sample["json"]["image"]
        assert sample["jpg"].shape == (image["height"], image["width"], 3)
        for each in sample["json"]["annotations"]:
            yield image["image_id"], each.get("label") or "object", coco_mask.decode(each["segmentation"])


def datasets(path: Path) -> Found:
    import datasets
    from pycocotools import mask as coco_mask

    files, cache = str(path / "data/*.parquet"), str(path / "cache")
    for row in datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache):
        assert row["image"].size == (row["width"], row["height"])
        for each in row["annotations"]:
            yield row["image_id"], each["label"] or "object", coco_mask.decode(each["segmentation"])


READERS = (
    *((reader, "coco") for reader in (pycocotools, supervision, datumaro)),
    *((reader, "lightly") for reader in (labelformat, lightly_studio)),
    (fiftyone, "fiftyone"),
    (datumaro, "cvat"),
    (label_studio_sdk, "label-studio"),
    (labelme, "labelme"),
    (webdataset, "webdataset"),
    (datasets, "huggingface"),
)
NAMES = ("cat", None, "ein Hund")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images, the last without masks; seven awkward masks on each other, of three names."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:96, :96]
    disc = (x - 40) ** 2 + (y - 50) ** 2 < 900
    masks = [disc, disc & ((x - 40) ** 2 + (y - 50) ** 2 > 100), rng.random((96, 96)) < 0.3]
    masks += [np.ones((96, 96), bool), (x == 0) & (y == 0), x == 95, (y == 95) | (disc & (x < 20))]
    return write_our_dataset(tmp_path_factory.mktemp("drawn"), 4, masks=masks, labels=NAMES)


def exported(root: Path, to: str, folder: Path) -> tuple[Path, Counter]:
    """Write a dataset with copies; return where, and its masks with image and name."""
    dataset = open_dataset(root)
    output = folder / (f"{to}.json" if EXPORTS[to].is_file else to)
    export_dataset(dataset, output, to=to, originals=open_originals(dataset.run_info))
    masks = Counter(
        (record.image_id, mask.label or "object", mask.mask().tobytes())
        for record in dataset.records()
        for mask in record.annotations
    )
    assert masks.total() == 21
    return output, masks


@pytest.mark.parametrize(("reader", "to"), READERS, ids=lambda each: getattr(each, "__name__", each))
def test_other_tools_read_every_mask_and_name(drawn, tmp_path, reader, to):
    """All of them, and nothing else."""
    if importlib.util.find_spec(reader.__name__) is None:
        pytest.skip(f"{reader.__name__} is not installed")
    output, masks = exported(drawn, to, tmp_path)
    found = Counter((image_id, name, mask.astype(bool).tobytes()) for image_id, name, mask in reader(output))

    assert found == masks


def test_ultralytics_takes_every_label(drawn, tmp_path, monkeypatch):
    """Its own parser of a label file: classes and polygons, of all masks that are not too thin for one."""
    if importlib.util.find_spec("ultralytics") is None:
        pytest.skip("ultralytics is not installed")
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    from ultralytics.data.utils import verify_image_label

    output, _ = exported(drawn, "yolo", tmp_path)
    for number, classes in enumerate(([1, 0, 2, 1, 2, 1],) * 3 + ([],)):
        image, label = output / f"images/{number:012d}.jpg", output / f"labels/{number:012d}.txt"
        parsed = verify_image_label((str(image), str(label), "", False, 3, 0, 0, False))

        assert parsed[-2:] == (0, "")  # corrupt, message
        assert parsed[1][:, 0].tolist() == classes
        assert len(parsed[3] or ()) == len(classes)
