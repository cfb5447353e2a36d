"""python -m tools.export: flags, sentences and exit codes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sam_engine.dataset.correction_log import CorrectionLog
from sam_engine.errors import InputError
from sam_engine.evaluation.truth import open_truth
from sam_engine.formats.export import EXPORTS
from sam_engine.ops.rle import encode_mask
from tests.helpers.dataset_builder import image, rectangle_mask, sample_records, write_dataset
from tests.helpers.drawn_data import write_our_dataset
from tools import export, import_annotations
from tools.command import run

CHANGES = ("num_replaced", "num_deleted", "num_added", "num_renamed")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def data(tmp_path):
    write_dataset(tmp_path / "data", sample_records(), input_root=str(tmp_path / "gone"))
    return tmp_path / "data"


def test_sa1b_without_images_says_so(data, tmp_path, capsys):
    """Annotations are written, and one line tells what is missing and which flag helps."""
    code = run(export.main, [str(data), "--to", "sa1b", "--output", str(tmp_path / "out")])
    printed = capsys.readouterr()

    assert code == 0
    assert printed.err.startswith("annotations only: ")
    assert "--images says where the images are" in printed.err
    assert printed.out.splitlines() == [
        f"{tmp_path / 'out'}: 4 images, 4 masks",
        "1 images failed in the run and were left out",
        "licences of the images: 4 unknown",
    ]


def test_coco_is_one_file(data, tmp_path, capsys):
    """The summary as JSON is for programs."""
    code = run(export.main, [str(data), "--to", "coco", "--output", str(tmp_path / "a/c.json"), "--json"])

    assert code == 0
    assert json.loads(capsys.readouterr().out) == {
        "num_images": 4,
        "num_masks": 4,
        "num_failed": 1,
        "num_missing": 0,
        "num_corrected": 0,
        "num_copies": 0,
        "missing": {},
        "licences": {"unknown": 4},
        "polygons": None,
    }
    assert json.loads((tmp_path / "a/c.json").read_text())["categories"][0]["name"] == "object"


def test_uncopied_images_are_counted_by_reason(tmp_path, capsys):
    """The folder is there, but not the images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"not what it was")
    masks = [rectangle_mask(24, 32, 1, 1, 2, 2)]
    write_dataset(tmp_path / "data", [image(0, b"a.jpg", masks), image(1, b"b.jpg")])
    arguments = [str(tmp_path / "data"), "--to", "sa1b", "--output", str(tmp_path / "out")]
    code = run(export.main, [*arguments, "--images", str(folder)])

    assert code == 0
    assert "whose annotations were written all the same: 1 changed, 1 vanished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--to", "coco", "--output", "x"], "error: nowhere is not a dataset"),
        (
            ["DATA", "--to", "sa1b", "--output", "x", "--images", "nowhere"],
            "error: input 'nowhere' does not exist",
        ),
        (["DATA", "--to", "coco", "--output", "DATA/README.md"], "error: --output .* exists"),
        (["DATA", "--to", "sa1b", "--output", "DATA"], "error: --output .* exists"),
        (["ftp://bucket/x", "--to", "coco", "--output", "x"], "error: .*a kind that holds no datasets"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(data, tmp_path, capsys, monkeypatch, arguments, message):
    """Every message begins with error: and nothing is written."""
    monkeypatch.chdir(tmp_path)
    (data / "README.md").write_text("")
    code = run(export.main, [argument.replace("DATA", str(data)) for argument in arguments])
    printed = capsys.readouterr().err

    assert code == 2
    assert printed.count("\n") == 1
    assert re.match(message, printed)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("form", "flags", "message"),
    [
        ("coco", ["--tar"], "tar goes with sa1b, and not with coco"),
        ("yolo", ["--rle", "compressed"], "rle goes with coco, and not with yolo"),
        ("sa1b", ["--iscrowd"], "iscrowd goes with coco"),
        ("labelme", ["--polygons"], "polygons goes with coco"),
        ("coco", ["--polygons", "--iscrowd"], "polygons go without rle and iscrowd"),
    ],
)
def test_flags_that_mean_nothing_are_refused(data, tmp_path, capsys, form, flags, message):
    """Rather than ignored: those of other forms, and those that contradict each other."""
    code = run(export.main, [str(data), "--to", form, "--output", str(tmp_path / "x"), *flags])

    assert code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("form", EXPORTS)
def test_every_form_is_written_and_what_comes_back_is_the_same(tmp_path, capsys, form):
    """Masks and images are counted alike; taken back untouched, nothing has changed."""
    root = write_our_dataset(tmp_path / "data", 3)
    output = tmp_path / "out.json"
    flags = ["--images"] if EXPORTS[form].copies_on_demand else []
    code = run(export.main, [str(root), "--to", form, "--output", str(output), "--json", *flags])
    summary = json.loads(capsys.readouterr().out)

    assert code == 0
    assert [summary[name] for name in ("num_images", "num_masks", "num_copies")] == [3, 4, 3]
    if form in import_annotations.FORMS:
        arguments = [str(root), str(output), "--from", form, "--by", "ann", "--json"]
        assert run(import_annotations.main, arguments) == 0
        back = json.loads(capsys.readouterr().out)
        assert back == {"num_images": 3, "num_kept": 4, **dict.fromkeys(CHANGES, 0)}


def test_what_would_come_back_is_told_without_a_line(data, tmp_path, capsys):
    """--dry-run counts as the import does, and leaves the log alone."""
    output = tmp_path / "c.json"
    run(export.main, [str(data), "--to", "coco", "--output", str(output)])
    document = json.loads(output.read_text())
    output.write_text(json.dumps(document | {"annotations": document["annotations"][1:]}))
    capsys.readouterr()
    code = run(
        import_annotations.main, [str(data), str(output), *["--from", "coco", "--by", "ann", "--dry-run"]]
    )

    assert code == 0
    assert "3 masks as they were, 0 changed, 1 deleted" in capsys.readouterr().out
    assert not (data / "corrections").exists()


def test_all_that_comes_back_is_told_so():
    """The description of a form says whether tools.import_annotations takes it."""
    assert {name for name, form in EXPORTS.items() if form.comes_back} == set(import_annotations.FORMS)


def test_the_loss_of_polygons_is_printed(data, tmp_path, capsys):
    """Rectangles have none."""
    code = run(export.main, [str(data), "--to", "coco", "--output", str(tmp_path / "c.json"), "--polygons"])

    assert code == 0
    assert "polygons: mean IoU 1.0000 with the masks; 0 too thin left out" in capsys.readouterr().out


def test_coco_copies_images_on_demand(tmp_path, capsys):
    """--images alone takes them from where the run found them."""
    root = write_our_dataset(tmp_path / "data")
    output = tmp_path / "c.json"
    code = run(export.main, [str(root), "--to", "coco", "--output", str(output), "--images"])
    names = [image["file_name"] for image in json.loads(output.read_text())["images"]]

    assert code == 0
    assert names == sorted(path.name for path in (tmp_path / "c").iterdir())


def test_a_damaged_dataset_is_exit_1(data, tmp_path, capsys):
    """The shard is named, with what to run."""
    (data / "annotations/shard-000000.parquet").write_bytes(b"PAR1")
    code = run(export.main, [str(data), "--to", "coco", "--output", str(tmp_path / "x")])

    assert code == 1
    assert "shard-000000.parquet" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_exit_4(data, tmp_path, capsys):
    """Storage has its own code."""
    (tmp_path / "file").write_text("")
    code = run(export.main, [str(data), "--to", "coco", "--output", str(tmp_path / "file/c.json")])

    assert code == 4
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("tool", ["export", "import_annotations", "verify"])
def test_help_needs_neither_torch_nor_ray(tool):
    """The tool starts at once."""
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['tools.{tool}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('tools.{tool}', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "sys.exit(', '.join({'torch', 'ray', 'hydra', 'cv2'} & set(sys.modules)) or None)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert (result.returncode, result.stderr) == (0, "")
    assert f"usage: python -m tools.{tool}" in result.stdout


def exported_masks(folder, capsys, *flags) -> dict[int, str]:
    """Export to COCO and return the run lengths of every mask by its id in the dataset."""
    output = folder.parent / f"{len(list(folder.parent.iterdir()))}.json"
    assert run(export.main, [str(folder), "--to", "coco", "--output", str(output), *flags]) == 0
    document = json.loads(output.read_text())
    return {each["id"] - 1: each["segmentation"]["counts"] for each in document["annotations"]}


def test_corrections_are_applied(tmp_path, capsys):
    """A deleted mask is gone, the others keep their ids, an added one counts on; unless they are ignored."""
    masks = [rectangle_mask(24, 32, 1, 1, 2, 2), rectangle_mask(24, 32, 5, 5, 9, 9)]
    write_dataset(tmp_path / "data", [image(0, b"a.jpg", masks), image(1, b"b.jpg")])
    added = encode_mask(rectangle_mask(24, 32, 3, 3, 4, 8))
    log = CorrectionLog(tmp_path / "data", by="Ada")
    log.delete(0, 0)
    log.add(0, (24, 32), added)
    corrected = exported_masks(tmp_path / "data", capsys)
    said = capsys.readouterr().out
    ignored = exported_masks(tmp_path / "data", capsys, "--corrections", "ignore")

    assert corrected == {1: encode_mask(masks[1]), 2: added}
    assert "corrections of 1 images were applied" in said
    assert ignored == {0: encode_mask(masks[0]), 1: encode_mask(masks[1])}
    assert "corrections of 1 images are ignored" in capsys.readouterr().err


def test_corrections_reach_the_sa1b_form(tmp_path, capsys):
    """A mask that a person drew has its own area and box, and scores of 1."""
    masks = [rectangle_mask(24, 32, 1, 1, 2, 2)]
    write_dataset(tmp_path / "data", [image(0, b"a.jpg", masks)])
    log = CorrectionLog(tmp_path / "data", by="Ada")
    log.replace(0, 0, (24, 32), encode_mask(rectangle_mask(24, 32, 3, 3, 4, 8)))
    run(export.main, [str(tmp_path / "data"), "--to", "sa1b", "--output", str(tmp_path / "out")])
    [mask] = json.loads((tmp_path / "out" / "sa_0.json").read_text())["annotations"]

    assert mask["area"] == rectangle_mask(24, 32, 3, 3, 4, 8).sum()
    assert (mask["id"], mask["predicted_iou"], mask["stability_score"]) == (0, 1.0, 1.0)


def make_half(folder) -> None:
    """Let a dataset's run have planned one image more than there is."""
    path = folder / "_meta" / "run.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"num_images": document["num_images"] + 1}))


def test_a_half_made_dataset_is_exported_on_demand_only(data, tmp_path, capsys):
    """Without --partial it is refused; with it, what is missing is said."""
    make_half(data)
    arguments = [str(data), "--to", "coco", "--output", str(tmp_path / "x.json")]

    assert run(export.main, arguments) == 2
    assert "is half made: 5 of 6 images" in capsys.readouterr().err
    assert run(export.main, [*arguments, "--partial"]) == 0
    assert "partial: 1 images were not made yet" in capsys.readouterr().out


def test_a_half_made_dataset_is_truth_on_demand_only(tmp_path):
    """Nor does training take it without a word; corrections can be ignored there too."""
    dataset = write_our_dataset(tmp_path, 3)
    log = CorrectionLog(dataset, by="Ada")
    log.delete(0, 0)
    make_half(dataset)

    with pytest.raises(InputError, match="partial=true"):
        open_truth(dataset)
    assert len(open_truth(dataset, partial=True).source.read(0).runs) == 1
    assert len(open_truth(dataset, partial=True, corrections="ignore").source.read(0).runs) == 2
