"""Points and boxes from a table are prompts of a run, and part of its fingerprint."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam_engine.amg.mask_finder import MaskFinder
from sam_engine.annotation.preparation import prepare
from sam_engine.annotation.prompt_table import PROMPTS, kept_prompts, read_prompts, within
from sam_engine.annotation.run import annotate_dataset
from sam_engine.automatic_mask_generator import SamAutomaticMaskGenerator
from sam_engine.config import AmgConfig
from sam_engine.dataset.reader import open_dataset
from sam_engine.errors import ConfigError, FingerprintError
from sam_engine.ops.rle import decode_runs
from sam_engine.predictor import SamPredictor
from sam_engine.storage.local import LocalStore
from tests.helpers import fakes

POINTS = "file_name,x,y\n001.png,10,20\n000.png,5.5,6\n001.png,30,31\n"


def table_of(folder, text, name="prompts.csv"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return str(folder / name)


def run(tmp_path, prompts, **changes):
    settings = fakes.run_settings(
        input=str(tmp_path / "in"), output=str(tmp_path / "out"), amg__prompts=prompts, **changes
    )
    return annotate_dataset(settings, make_model=fakes.make_disc_segmenter)


def test_a_table_is_read_image_by_image(tmp_path):
    """In the table's order for each; an image that is not in it has none."""
    table = read_prompts(table_of(tmp_path, POINTS))

    assert table.of(b"001.png").tolist() == [[10, 20], [30, 31]]
    assert table.of(b"000.png").tolist() == [[5.5, 6]]
    assert table.of(b"002.png").shape == (0, 2)


def test_the_digest_is_of_the_prompts(tmp_path):
    """CSV, Parquet and what a dataset keeps have the same; another order of one image's prompts has not."""
    table = read_prompts(table_of(tmp_path, POINTS))
    pq.write_table(
        pa.table({"y": [6.0, 20, 31], "file_name": ["000.png", "001.png", "001.png"], "x": [5.5, 10, 30]}),
        tmp_path / "p.parquet",
    )
    store = LocalStore(tmp_path / "store")
    store.replace(PROMPTS, table.to_bytes())
    swapped = read_prompts(table_of(tmp_path, "file_name,x,y\n001.png,30,31\n000.png,5.5,6\n001.png,10,20\n"))

    assert table.sha256 == read_prompts(str(tmp_path / "p.parquet")).sha256 == kept_prompts(store).sha256
    assert swapped.sha256 != table.sha256


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,a,b\nx.png,1,2\n", "has columns file_name, a, b; wanted is a .csv or .parquet table"),
        ("name,x,y\nx.png,1,2\n", "wanted is"),
        ("file_name,x,y,x0,y0,x1,y1\nx.png,1,2,1,2,3,4\n", "wanted is"),
        ("file_name,x,y\n", "holds no prompts"),
        ("file_name,x,y\nx.png,1,abc\n", "coordinates are no numbers"),
        ("file_name,x,y\nx.png,1,2\nx.png,nan,2\n", "row 2 has no number"),
        ("file_name,x,y\nx.png,1,2\nx.png,-1,2\n", "row 2 lies left of or above its image"),
        ("file_name,x0,y0,x1,y1\nx.png,50,50,20,20\n", "row 1 has its right before its left"),
    ],
)
def test_what_is_no_table_of_prompts_is_refused(tmp_path, text, message):
    """With the row, or with what is wanted."""
    with pytest.raises(ConfigError, match=message):
        read_prompts(table_of(tmp_path, text))


@pytest.mark.parametrize("name", ["missing.csv", "missing.parquet", "prompts.txt"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, name):
    """Missing, or of another kind."""
    with pytest.raises(ConfigError, match=r"amg\.prompts"):
        read_prompts(str(tmp_path / name))


@pytest.mark.parametrize("changes", [{"crop_n_layers": 1}, {"points_per_row": 3, "points_per_column": 3}])
def test_a_grid_beside_prompts_is_refused(changes):
    """One or the other."""
    with pytest.raises(ConfigError, match=r"left out with amg\.prompts"):
        AmgConfig(prompts="a.csv", **changes)


def test_a_table_is_named_by_a_text():
    """Neither rows nor a number."""
    with pytest.raises(ConfigError, match=r"amg\.prompts must be a text, got 5"):
        AmgConfig(prompts=5)


def test_prompts_outside_of_an_image():
    """Those that begin outside are left out, boxes that reach beyond are cut; both are told."""
    boxes = np.array([[1, 2, 30, 40], [50, 20, 70, 45], [60, 10, 70, 20.0]])
    kept, notes = within(boxes, (40, 60))

    assert kept.tolist() == [[1, 2, 30, 40], [50, 20, 60, 40]]
    assert notes == [
        "1 of 3 prompts lie outside of the image: left out",
        "1 of 3 boxes reach beyond the image: cut",
    ]


def test_a_run_prompts_with_the_table(tmp_path):
    """Each row's masks are of its own points; without any it is ok_empty; a note tells of the rest."""
    fakes.write_images(tmp_path / "in", 3)
    text = POINTS + "001.png,900,20\nelsewhere.png,1,1\n"
    run(tmp_path, table_of(tmp_path / "tables", text), amg__stability_score_thresh=0, amg__box_nms_thresh=1.0)
    rows = list(open_dataset(tmp_path / "out").records())

    found = [{tuple(a.point_coords[0]) for a in row.annotations} for row in rows]
    assert found == [{(5.5, 6.0)}, {(10.0, 20.0), (30.0, 31.0)}, set()]
    assert [row.status for row in rows] == ["ok", "ok", "ok_empty"]
    assert rows[1].error == "1 of 3 prompts lie outside of the image: left out"


def test_a_run_is_resumed_without_the_file_but_not_with_another(tmp_path):
    """The dataset keeps the prompts; others are other settings."""
    fakes.write_images(tmp_path / "in", 2)
    path = table_of(tmp_path / "tables", POINTS)
    run(tmp_path, path)
    shard = tmp_path / "out/annotations/shard-000000.parquet"
    before = shard.read_bytes()
    shard.unlink()
    (tmp_path / "out/_SUCCESS.json").unlink()
    (tmp_path / "tables/prompts.csv").unlink()
    run(tmp_path, path)

    assert shard.read_bytes() == before
    with pytest.raises(FingerprintError, match=r"amg\.prompts_sha256"):
        run(tmp_path, table_of(tmp_path / "tables", POINTS.replace("30,31", "30,32")))


def test_a_table_of_other_images_is_refused(tmp_path):
    """Before anything is written."""
    fakes.write_images(tmp_path / "in", 2)

    with pytest.raises(ConfigError, match=r"none of its 1 names is an image .* the first is a.png"):
        run(tmp_path, table_of(tmp_path / "tables", "file_name,x,y\na.png,1,1\n"))
    assert not (tmp_path / "out").exists()


def test_boxes_find_the_masks_that_a_predictor_finds():
    """One mask a box, in the order of the table where nothing is filtered."""
    sam = fakes.make_reduced_tiny()
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    boxes = np.array([[5, 5, 60, 50], [0, 0, 90, 60], [20, 10, 40, 30.0]])
    config = AmgConfig(prompts="-", pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=1.0)
    found = {mask.point_coords: mask for mask in MaskFinder(sam, config).find(image, boxes)}
    predictor = SamPredictor(sam)
    masks, scores, _ = predictor.predict(box=boxes, multimask_output=False, embedding=predictor.encode(image))

    assert len(found) == 3
    for box, [mask], [score] in zip(boxes.tolist(), masks, scores, strict=True):
        mine = found[(box[0], box[1]), (box[2], box[3])]
        assert np.array_equal(decode_runs(mine.runs, (60, 90)), mask)
        assert mine.predicted_iou == pytest.approx(float(score), abs=1e-6)


def test_the_library_asks_for_prompts():
    """A generator has no table's images."""
    generator = SamAutomaticMaskGenerator.from_config(fakes.DiscSegmenter(), AmgConfig(prompts="a.csv"))

    with pytest.raises(ConfigError, match="give prompts to find"):
        generator.generate(np.zeros((20, 20, 3), np.uint8))


def test_notes_of_a_table(tmp_path):
    """How many names are no images, and how many images have no prompts."""
    fakes.write_images(tmp_path / "in", 4)
    path = table_of(tmp_path / "tables", POINTS + "elsewhere.png,1,1\n")
    preparation = prepare(
        fakes.run_settings(input=str(tmp_path / "in"), output=str(tmp_path / "out"), amg__prompts=path)
    )

    assert preparation.prompts.notes(preparation.manifest) == [
        "1 names in amg.prompts are no images of this run",
        "2 images have no prompts in amg.prompts, and get no masks",
    ]
