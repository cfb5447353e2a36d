"""Before a run: machines are tried, sick ones refused, and time, cost and size estimated."""

import dataclasses
import functools
import json
import shutil

import numpy as np
import pytest

from pipelines.auto_annotate import run
from pipelines.launch import command_line
from sam_engine.annotation.canary import canary_masks, mean_iou
from sam_engine.annotation.preflight import preflight
from sam_engine.annotation.preparation import prepare
from sam_engine.annotation.run import annotate_dataset, preflight_dataset
from sam_engine.config import PreflightConfig
from sam_engine.dataset.schema import ANNOTATIONS_PREFIX, RUN_INFO
from sam_engine.errors import ConfigError, ModelLoadError
from sam_engine.storage.local import LocalStore
from tests.helpers import fakes

small_model = functools.partial(fakes.DiscSegmenter, (8.0, 10.0, 12.0), 64)
other_model = functools.partial(fakes.DiscSegmenter, (3.0, 4.0, 5.0), 64)


@pytest.fixture
def photos(tmp_path):
    return fakes.write_images(tmp_path / "in", 12)


def settings(tmp_path, name="only", **more):
    config = fakes.run_settings(
        input=str(tmp_path / "in"), output=str(tmp_path / "out"), shard_size=3, **more
    )
    return dataclasses.replace(config, preflight=PreflightConfig(name=name, price_per_hour=2.0))


def objects(output):
    return {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}


def test_what_a_run_takes_is_estimated(photos, tmp_path):
    """From four images of twelve; the run that follows makes what was said, but for what images differ by."""
    config = settings(tmp_path)
    report = preflight_dataset(config, make_model=small_model)
    annotate_dataset(dataclasses.replace(config, preflight=PreflightConfig()), make_model=small_model)
    store = LocalStore(tmp_path / "out")
    shards = store.list(ANNOTATIONS_PREFIX)
    num_masks = json.loads(store.read("_meta/report.json"))["num_masks"]

    assert (report.num_images, report.num_shards, len(report.sound)) == (12, 4, 1)
    assert report.num_masks == pytest.approx(num_masks, rel=0.1)
    assert report.num_bytes == pytest.approx(sum(len(store.read(name)) for name in shards), rel=0.25)
    assert report.cost == pytest.approx(report.seconds / 3600 * 2.0)


def test_nothing_of_it_stays(photos, tmp_path):
    """Neither a dataset that is begun, nor what was written to try."""
    preflight_dataset(settings(tmp_path), make_model=small_model)

    assert objects(tmp_path / "out") == set()


def test_a_run_without_a_model_can_be_tried_too(photos, tmp_path):
    """Its rows have no masks; its machines must still read and write."""
    report = preflight_dataset(settings(tmp_path, model__name="none", model__checkpoint=None))

    assert (len(report.sound), report.num_masks, report.num_bytes > 0) == (1, 0, True)


def test_a_dataset_that_is_half_made_has_less_to_do(photos, tmp_path):
    """What is counted is what is open, by the names that are there."""
    config = dataclasses.replace(settings(tmp_path), preflight=PreflightConfig())
    annotate_dataset(config, make_model=small_model)
    (tmp_path / "out" / ANNOTATIONS_PREFIX / "shard-000001.parquet").unlink()
    report = preflight_dataset(settings(tmp_path), make_model=small_model)

    assert (report.num_images, report.num_shards) == (3, 1)


@pytest.fixture
def checkup(photos, tmp_path):
    """What every machine must pass; here it does."""
    checkup = preflight(prepare(settings(tmp_path)), small_model, small_model)[1]
    store = LocalStore(tmp_path / "out")
    store.put_exclusive(checkup.expected.mark, b"of the driver")

    assert checkup().problems == ()
    return checkup


def expecting(checkup, **changes):
    return dataclasses.replace(checkup, expected=dataclasses.replace(checkup.expected, **changes))


def with_checkpoint(checkup, tmp_path, data=None):
    """Return it with weights that the driver has and another machine has not, or has others of."""
    path = tmp_path / "weights.safetensors"
    if data is not None:
        path.write_bytes(data)
    return dataclasses.replace(
        checkup, checkpoint=dataclasses.replace(checkup.checkpoint, path=path, sha256="0" * 64)
    )


def raise_cuda_error():
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param(
            lambda checkup, _: expecting(checkup, sha256="0" * 64), "has other bytes than", id="another input"
        ),
        pytest.param(
            lambda checkup, tmp_path: shutil.rmtree(tmp_path / "in") or checkup,
            "cannot be read",
            id="no input",
        ),
        pytest.param(
            lambda checkup, tmp_path: dataclasses.replace(checkup, store=LocalStore(tmp_path / "elsewhere")),
            "is another one here",
            id="another output",
        ),
        pytest.param(with_checkpoint, "cannot be read: No such file", id="no checkpoint"),
        pytest.param(
            functools.partial(with_checkpoint, data=b"other"),
            "but where the driver is 0000",
            id="another checkpoint",
        ),
        pytest.param(
            lambda checkup, _: dataclasses.replace(checkup, make_model=other_model),
            "finds other masks than a CPU: mean IoU 0.",
            id="a device that errs",
        ),
        pytest.param(
            lambda checkup, _: dataclasses.replace(checkup, make_model=raise_cuda_error),
            "the model does not work: RuntimeError: CUDA error",
            id="a device that is broken",
        ),
    ],
)
def test_a_sick_machine_says_what_is_wrong(checkup, tmp_path, change, problem):
    """In a sentence, and it is not counted among the sound ones."""
    [said] = change(checkup, tmp_path)().problems

    assert problem in said


def test_a_worker_is_refused_before_it_gets_a_shard(checkup):
    """Also one that comes later: whoever loads the model on a sick machine does not get to work."""
    checkup.refuse_sick(small_model())

    with pytest.raises(RuntimeError, match="finds other masks than a CPU"):
        checkup.refuse_sick(other_model())


def test_numbers_that_are_none_are_no_masks():
    """A device that gives NaN finds nothing, which is not what is expected."""
    sound = canary_masks(small_model())

    assert mean_iou(np.zeros_like(sound), sound) < 0.1
    assert mean_iou(sound, sound) == 1.0


class _GoodThenBad:
    """Gives what is expected first, as on the driver, and other masks on the worker."""

    calls = 0

    def __call__(self):
        self.calls += 1
        return small_model() if self.calls == 1 else other_model()


def test_a_run_without_a_sound_worker_begins_nothing(photos, tmp_path):
    """Exit 1 with the reason; the output is as empty as before."""
    with pytest.raises(ModelLoadError, match="no worker is sound: its cpu finds other masks"):
        annotate_dataset(settings(tmp_path, "first"), make_model=_GoodThenBad())

    assert not (tmp_path / "out" / RUN_INFO).exists()


def test_a_run_goes_on_after_its_preflight(photos, tmp_path, capsys):
    """With preflight=first: what was found is in the log, and the dataset is made."""
    code = run(settings(tmp_path, "first"), small_model)
    printed, logged = capsys.readouterr()

    assert code == 0
    assert "workers   1 of 1 are sound, on 1 machines" in logged
    assert "images    12 of 12" in printed


def test_a_preflight_alone_is_printed(photos, tmp_path, capsys):
    """A line each for what is to be done, who may do it, and what it takes."""
    code = run(settings(tmp_path), small_model)
    words = [line.split()[0] for line in capsys.readouterr().out.splitlines()]

    assert code == 0
    assert words == ["images", "workers", "speed", "time", "masks", "size", "cost"]


def test_a_preflight_alone_is_no_run(photos, tmp_path):
    """Who calls for a dataset and sets preflight=only gets neither."""
    with pytest.raises(ConfigError, match="preflight=only makes no dataset"):
        annotate_dataset(settings(tmp_path), make_model=small_model)


def test_a_store_that_is_not_exclusive_is_refused(photos, tmp_path, monkeypatch):
    """Before any machine is tried."""
    monkeypatch.setattr(
        LocalStore, "put_exclusive", lambda self, name, data: self.replace(name, data) or True
    )

    with pytest.raises(ConfigError, match="writers created one object"):
        preflight_dataset(settings(tmp_path), make_model=small_model)


@pytest.mark.parametrize("launch", ["slurm", "ray_job"])
def test_a_launcher_tries_the_machines_that_a_run_would_have(launch, capsys):
    """The word alone: every driver of an array tries the machine that it runs on."""
    command_line([f"launch={launch}", "launch.dry_run=true", "preflight"])

    assert "annotate preflight=only" in capsys.readouterr().out
