"""The annotator's program without its pages: bare photos, what training takes of them, the report."""

import json
import shutil
from dataclasses import replace

import pytest
from PIL import Image
from safetensors.torch import save_file

from sam_engine.catalogue import ARCHITECTURES
from sam_engine.dataset.correction_log import CorrectionLog
from sam_engine.dataset.corrections import Operation
from sam_engine.dataset.reader import open_dataset
from sam_engine.dataset.rewrite.operations import apply_corrections_of
from sam_engine.dataset.rewrite.parents import open_parent
from sam_engine.errors import ConfigError, FingerprintError, InputError
from sam_engine.formats.open import open_source
from sam_engine.ops.rle import encode_mask
from sam_engine.structures import ImageStatus
from tests.helpers.drawn_data import assert_masks, draw
from tests.helpers.reference_models import SMALL_TINY, make_reduced_tiny
from tools import annotate, verify


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A dataset of three drawn photos, and a file that is none, as the program makes it."""
    root = tmp_path_factory.mktemp("bare")
    (root / "photos").mkdir()
    for number in range(3):
        Image.fromarray(draw(number)[0]).save(root / f"photos/{number}.png")
    (root / "photos/z.png").write_bytes(b"no image")
    annotate.begin_bare(str(root / "photos"), str(root / "data"))
    return root / "data"


@pytest.fixture
def own(bare, tmp_path):
    """A copy that may be corrected."""
    shutil.copytree(bare, tmp_path / "own")
    return tmp_path / "own"


def test_bare_photos_are_rows_without_masks(bare, capsys):
    """Made by no model, and sound by every promise of the format; a card says whose masks they will be."""
    statuses = [record.status for record in open_dataset(bare).records()]

    assert statuses == [ImageStatus.OK_EMPTY] * 3 + [ImageStatus.UNSUPPORTED]
    assert open_dataset(bare).run_info["settings"]["model.name"] == "none"
    assert verify.main([str(bare)]) == 0
    assert "people\ndraw them" in (bare / "README.md").read_text()


def test_the_same_photos_go_on_where_they_are_and_others_are_refused(bare, tmp_path):
    """Shards stay as they are; a dataset of other photos or settings is not written into."""
    before = {path: path.stat().st_ino for path in (bare / "annotations").iterdir()}
    annotate.begin_bare(str(bare.parent / "photos"), str(bare))
    (tmp_path / "others").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "others/a.png")

    assert {path: path.stat().st_ino for path in (bare / "annotations").iterdir()} == before
    with pytest.raises((ConfigError, FingerprintError)):
        annotate.begin_bare(str(tmp_path / "others"), str(bare))


def test_training_takes_what_people_looked_at_and_nothing_else(own, tmp_path):
    """Of bare photos: those with corrections that count, or that are exhaustive; not one that was undone."""
    with pytest.raises(InputError, match="no masks"):
        open_source(str(own))
    log = CorrectionLog(own, "Ada")
    _, (disc, _) = draw(1)
    log.add(1, disc.shape, encode_mask(disc))
    log.write([log.line(Operation.ADD, 0, "x", size=disc.shape, counts=encode_mask(disc), act="a")])
    log.write([log.line(Operation.UNDO, 0, act="a")])
    log.accept(2)
    source = open_source(str(own))

    assert [source.image_id(index) for index in range(len(source))] == [1, 2]
    assert_masks(source.read(0), [disc])
    assert_masks(source.read(1), [])
    apply_corrections_of(open_parent(own), tmp_path / "version2")
    assert [len(r.annotations) for r in open_dataset(tmp_path / "version2").records()] == [0, 1, 0, 0]


def test_the_report_says_who_did_what_in_how_much_time(own, capsys):
    """A line for each person and stage, and the same as JSON."""
    log = CorrectionLog(own, "Ben")
    log.write([log.line(Operation.ACCEPT, 0, act="b", stage="manual", time_s=72.0)])
    assert annotate.main([str(own), "--report"]) == 0
    text = capsys.readouterr().out
    assert annotate.main([str(own), "--report", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)

    assert "Ben, manual: 1 images, 1 of them exhaustive" in text
    assert [(row["by"], row["stage"], row["seconds"]) for row in rows if row["by"] == "Ben"] == [
        ("Ben", "manual", 72.0)
    ]


def test_a_half_made_dataset_is_not_corrected(bare, tmp_path, monkeypatch):
    """Its masks are still being made."""
    shutil.copytree(bare, tmp_path / "half")
    next((tmp_path / "half/annotations").iterdir()).unlink()

    with pytest.raises(ConfigError, match="half made"):
        annotate.main([str(tmp_path / "half")])


def test_images_are_encoded_ahead_once(bare, tmp_path, monkeypatch, capsys):
    """A file for each image that can be decoded, which a second time is only touched."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    small = tmp_path / "small.safetensors"
    save_file(make_reduced_tiny().state_dict(), small)
    monkeypatch.setitem(ARCHITECTURES, "tiny", replace(SMALL_TINY, image_size=128))
    arguments = [str(bare), "--precompute", "--checkpoint", str(small)]
    assert annotate.main(arguments) == 0
    made = {path: path.stat().st_ino for path in tmp_path.rglob("*.embedding")}
    assert annotate.main(arguments) == 0

    assert len(made) == 3
    assert {path: path.stat().st_ino for path in tmp_path.rglob("*.embedding")} == made
    assert capsys.readouterr().err.count("3 images are encoded\n") == 2
