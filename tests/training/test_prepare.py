"""A run goes on only with the data and the settings it was begun with."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from sam_engine.errors import ConfigError, InputError
from sam_engine.training.config import DataConfig, TrainConfig
from sam_engine.training.data.packed import PackedDataset
from sam_engine.training.data.provenance import same_content
from sam_engine.training.data.streaming import StreamedDataset
from sam_engine.training.prepare import prepare_run
from sam_engine.training.run import read_config, refuse_other_settings
from sam_engine.training.trainer import LAST
from tests.helpers.drawn_data import write_our_dataset, write_tar


def settings(folder: Path, **changes: object) -> TrainConfig:
    """A run on one tar of drawn images; changes of the data as ``data__NAME``."""
    data = {key.removeprefix("data__"): changes.pop(key) for key in list(changes) if key.startswith("data__")}
    data = {"sources": [str(folder / "a.tar")], "short_side": 96} | data
    return TrainConfig(output=str(folder / "run"), data=DataConfig(**data), **changes)


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A folder with sources and a run that has a state to go on from."""
    write_tar(tmp_path / "a.tar")
    write_tar(tmp_path / "b.tar", range(8, 10))
    prepare_run(settings(tmp_path))
    (tmp_path / "run" / LAST).write_bytes(b"")
    return tmp_path


def test_the_same_run_goes_on(begun: Path):
    """Also longer, on another machine's threads, and from sources that lie elsewhere or are not there."""
    moved = begun / "elsewhere"
    moved.mkdir()
    (begun / "a.tar").rename(moved / "a.tar")
    for sources in ([str(moved / "a.tar")], ["/nowhere/a.tar"], []):
        prepare_run(settings(begun, data__sources=sources, total_steps=9, threads=1))

    assert read_config(begun / "run" / "config.json", {}).total_steps == 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__sources": ["b.tar"]}, r"data.sources was \['.*a.tar'\] and is \['.*b.tar'\]"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"loss": "focal_dice"}, "loss was 'bce_dice' and is 'focal_dice'"),
        ({"data__max_zoom": 2.0, "image_size": 64}, r"data.max_zoom was 2.5 and is 2.0, image_size was None"),
    ],
)
def test_other_settings_need_another_output(begun: Path, changes: dict, message: str):
    """What changes what is learnt is named with both values, and nothing is written."""
    if "data__sources" in changes:
        changes = {"data__sources": [str(begun / name) for name in changes["data__sources"]]}
    before = (begun / "run" / "config.json").read_text()

    with pytest.raises(ConfigError, match=message):
        prepare_run(settings(begun, **changes))
    assert (begun / "run" / "config.json").read_text() == before


def test_named_settings_may_change(begun: Path):
    """A run in stages says which."""
    prepare_run(settings(begun, seed=1, may_change=["seed"]))

    assert read_config(begun / "run" / "config.json", {}).seed == 1


def test_a_run_without_hydra_is_held_to_its_settings_too(begun: Path):
    """``python -m sam_engine.training CONFIG.json seed=1`` asks the same."""
    with pytest.raises(ConfigError, match="seed was 0 and is 1"):
        refuse_other_settings(read_config(begun / "run" / "config.json", {"seed": 1}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data__sources": ["b.tar"]},
            r"was packed of other data: sources were \[a.tar\] and are",
        ),
        ({"data__short_side": 64}, "short_side was 96 and is 64"),
        ({"data__hold_out": 3}, "hold_out was None and is 3"),
        ({"data__jpeg_quality": 90}, "jpeg_quality was 85 and is 90"),
        ({"data__region_sources": ["b.tar"]}, r"region_sources were \[\] and are \[b.tar\]"),
    ],
)
def test_a_packed_file_of_other_data_is_refused(begun: Path, changes: dict, message: str):
    """Also before the first step: the file would be trained on while config.json names other data."""
    (begun / "run" / LAST).unlink()
    for key in ("data__sources", "data__region_sources"):
        if key in changes:
            changes = {key: [str(begun / name) for name in changes[key]]}

    with pytest.raises(ConfigError, match=message):
        prepare_run(settings(begun, **changes))


def test_a_source_of_the_same_name_with_other_bytes_is_refused(begun: Path):
    """By its digest, which the packed file holds."""
    shutil.copy(begun / "b.tar", begun / "a.tar")

    with pytest.raises(ConfigError, match=r"a\.tar in sources is not the one that was packed"):
        prepare_run(settings(begun))


def test_an_older_packed_file_is_taken_with_a_word(begun: Path, caplog: pytest.LogCaptureFixture):
    """Files that do not say what they were made of go on being used; the log says so."""
    packed = begun / "run" / "packed.npz"
    with np.load(packed) as file:
        columns = {name: file[name] for name in file.files if name != "made_of"}
    np.savez(packed, **columns)

    prepare_run(settings(begun))

    assert "packed by an earlier version" in caplog.text


@pytest.mark.parametrize("name", ["a.tar", "copy.tar", "linked.tar"])
def test_held_out_images_are_not_trained_on(begun: Path, name: str):
    """The same tar in both, also a copy under another name, is refused before anything is made."""
    shutil.copy(begun / "a.tar", begun / "copy.tar")
    (begun / "linked.tar").symlink_to(begun / "a.tar")
    shutil.rmtree(begun / "run")

    with pytest.raises(ConfigError, match=rf"{name} of held_out is .*a\.tar of data\.sources"):
        prepare_run(settings(begun, held_out=[str(begun / name)]))
    assert not (begun / "run").exists()


@pytest.mark.parametrize(
    ("sources", "held_out"),
    [
        ("train", "train/a.tar"),
        ("train/*.tar", "train/a.tar"),
        ("train/{a,b}.tar", "copy.tar"),
        ("train/a.tar", "train"),
        (".", "train"),
        ("train", "whole-copy"),
    ],
)
def test_held_out_images_are_in_no_folder_that_is_trained_on(begun: Path, sources: str, held_out: str):
    """A folder, a glob or a range has the tars that are in it; others beside them may be held out."""
    (begun / "train").mkdir()
    for name in ("a.tar", "b.tar"):
        shutil.copy(begun / name, begun / "train" / name)
    shutil.copytree(begun / "train", begun / "whole-copy")
    shutil.copy(begun / "a.tar", begun / "copy.tar")
    shutil.rmtree(begun / "run")

    assert same_content([str(begun / sources)], [str(begun / held_out)])
    assert not same_content([str(begun / "train/a.tar")], [str(begun / "train/b.tar")])


def test_a_dataset_annotated_again_is_the_same_source(tmp_path: Path):
    """What a run writes beside the masks, such as its report, is no part of the digest."""
    dataset = write_our_dataset(tmp_path)
    prepare_run(settings(tmp_path, data__sources=[str(dataset)]))
    (dataset / "_meta" / "report.json").write_text("{}")

    prepare_run(settings(tmp_path, data__sources=[str(dataset)]))

    assert len(PackedDataset(tmp_path / "run" / "packed.npz")) > 0


def ids(path: Path) -> list[int]:
    return PackedDataset(path).image_ids.tolist()


@pytest.mark.parametrize(("hold_out", "expected"), [(5, [102, 107]), (25, [107]), (2, [101, 103, 105, 107])])
def test_images_are_held_out_by_their_id(tmp_path: Path, hold_out: int, expected: list[int]):
    """Those whose id leaves 7 when divided are scored on, and the others trained on, packed or streamed."""
    write_tar(tmp_path / "a.tar")
    config = settings(tmp_path, data__hold_out=hold_out)
    prepare_run(config)
    rest = [number for number in range(100, 108) if number not in expected]

    assert ids(tmp_path / "run" / "held-out.npz") == expected
    assert ids(tmp_path / "run" / "packed.npz") == rest
    assert len(StreamedDataset(config.data)) == len(rest)


def test_held_out_images_come_from_each_source_in_turn(tmp_path: Path):
    """So that the first few, which are scored, are of all of them; held_out gives all of its own."""
    write_tar(tmp_path / "a.tar", range(6))
    write_tar(tmp_path / "b.tar", range(10, 14))
    write_tar(tmp_path / "c.tar", range(20, 22))
    sources = [str(tmp_path / "a.tar"), str(tmp_path / "b.tar")]
    prepare_run(
        settings(tmp_path, data__sources=sources, data__hold_out=2, held_out=[str(tmp_path / "c.tar")])
    )

    assert ids(tmp_path / "run" / "held-out.npz") == [101, 111, 120, 103, 113, 121, 105]


def test_holding_nothing_out_is_an_error(tmp_path: Path):
    """There would be nothing to score on."""
    write_tar(tmp_path / "a.tar")

    with pytest.raises(InputError, match=r"data.hold_out=1000 holds no image of .*a.tar out: none has an id"):
        prepare_run(settings(tmp_path, data__hold_out=1000))


def test_a_changed_share_of_held_out_images_is_refused(tmp_path: Path):
    """The packed file would hold other images than the settings name."""
    write_tar(tmp_path / "a.tar")
    prepare_run(settings(tmp_path, data__hold_out=2))
    (tmp_path / "run" / "packed.npz").unlink()

    with pytest.raises(ConfigError, match=r"held-out\.npz was packed of other data: hold_out was 2 and is 5"):
        prepare_run(settings(tmp_path, data__hold_out=5))
