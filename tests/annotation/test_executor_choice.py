"""``executor=auto``: Ray where it pays, else one process beside the driver, which an image may kill."""

import functools
import os
import signal

import pytest

from sam_engine.annotation import executor_choice
from sam_engine.annotation.executor_choice import choose_executor
from sam_engine.annotation.preparation import prepare
from sam_engine.annotation.run import annotate_dataset
from sam_engine.annotation.run_shards import run_shards
from sam_engine.config import AutoAnnotateConfig, ExecutorConfig, ModelConfig
from sam_engine.dataset.manifest import cut_shards
from sam_engine.dataset.reader import open_dataset
from sam_engine.errors import ModelLoadError, StorageError
from sam_engine.structures import ShardReport
from tests.helpers import fake_workers, fakes
from tests.helpers.process_tree import descendants


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    """The machine of these tests: no GPU, two cores."""
    monkeypatch.setattr(executor_choice, "_GPUS", ("no-such-device",))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})


def choose(num_images, *, model=None, **executor):
    config = AutoAnnotateConfig(model=ModelConfig(**model or {}), executor=ExecutorConfig(**executor))
    return choose_executor(config, num_images)


@pytest.mark.parametrize(
    ("num_images", "settings", "name"),
    [
        (8, {}, "inline"),
        (1000, {}, "ray"),
        (1000, {"num_workers": 1}, "inline"),
        (8, {"num_workers": 2}, "ray"),
        (8, {"address": "10.0.0.1:6379"}, "ray"),
        (1000, {"threads_per_worker": 2}, "inline"),
        (8, {"model": {"name": "vit_h"}}, "ray"),
        (1, {"model": {"device": "cuda:0"}}, "ray"),
        (1000, {"name": "inline"}, "inline"),
        (8, {"name": "ray"}, "ray"),
    ],
)
def test_auto_takes_what_is_quicker(num_images, settings, name):
    """By images, workers, model, device and address; a name that was given is obeyed."""
    assert choose(num_images, **settings).name == name


def test_a_gpu_is_for_ray(monkeypatch, tmp_path):
    """Seen by its device file, unless the CPU was asked for."""
    monkeypatch.setattr(executor_choice, "_GPUS", ("null",))

    assert choose(8).name == "ray"
    assert choose(8, model={"device": "cpu"}).name == "inline"


def test_auto_decodes_in_child_processes(tmp_path):
    """Unless it may not; inline by name does not, unless it must."""
    fakes.write_images(tmp_path / "in", 2)

    def isolates(executor, **decode):
        config = fakes.run_settings(
            input=str(tmp_path / "in"), output=str(tmp_path / "out"), executor__name=executor, **decode
        )
        return prepare(config).config.decode.isolate

    assert [isolates("auto"), isolates("ray"), isolates("inline")] == [True, True, False]
    assert [isolates("auto", decode__isolate=False), isolates("inline", decode__isolate=True)] == [
        False,
        True,
    ]


def annotate(tmp_path, make_model, **settings):
    return annotate_dataset(
        input=tmp_path / "in",
        output=settings.pop("output", tmp_path / "out"),
        model={"checkpoint": "random"},
        amg={"points_per_side": 2},
        shard_size=4,
        previews=0,
        make_model=make_model,
        **settings,
    )


def statuses(output):
    return [str(record.status) for record in open_dataset(output).records()]


def test_auto_and_inline_give_the_same_bytes(tmp_path, caplog):
    """The first line says which it is. A model of a notebook, which no module has, is taken along."""
    fakes.write_images(tmp_path / "in", 5)
    with caplog.at_level("INFO"):
        annotate(tmp_path, lambda: fakes.make_disc_segmenter())
    annotate(tmp_path, fakes.make_disc_segmenter, output=tmp_path / "inline", executor="inline")

    assert fakes.shard_bytes(tmp_path / "out") == fakes.shard_bytes(tmp_path / "inline")
    assert caplog.messages[0] == (
        "executor=auto: one process without Ray, which is quicker for 5 images here"
    )


@pytest.mark.slow
def test_an_image_that_kills_the_model_ends_as_a_row(tmp_path):
    """With eight photos as with a million; its neighbours are annotated."""
    fakes.write_images(tmp_path / "in", 8)
    fakes.write_image(tmp_path / "in/002.png", fakes.DEADLY)
    annotate(tmp_path, fakes.make_troubled_segmenter)

    assert statuses(tmp_path / "out") == ["ok", "ok", "worker_crash", *["ok"] * 5]
    [error] = [record.error for record in open_dataset(tmp_path / "out").records() if record.error]
    assert error == "the worker died"


def shards_in_child(tmp_path, trouble, **settings):
    """Return the reports of three shards of four images, made by workers without a model in a child."""
    make_worker = functools.partial(fake_workers.CountingWorker, tmp_path / "images.log", trouble)
    config = ExecutorConfig(name="inline", **settings)
    events = list(run_shards(cut_shards(12, 4), make_worker, config, in_child=True))
    return [dict(event.statuses) for event in events if isinstance(event, ShardReport)]


@pytest.mark.parametrize(
    ("trouble", "status"), [("die", "worker_crash"), ("raise", "worker_crash"), ("hang", "timeout")]
)
def test_what_befalls_the_process_is_one_images_row(tmp_path, trouble, status):
    """Death, an exception, silence: after two careful tries; the rest is whole."""
    found = shards_in_child(tmp_path, {5: trouble}, shard_timeout_s=1.0)

    assert found == [{"ok": 4}, {"ok": 3, status: 1}, {"ok": 4}]


def test_one_death_costs_no_image(tmp_path):
    """The shard is done again by a fresh process."""
    assert shards_in_child(tmp_path, {5: "die-once"}) == [{"ok": 4}] * 3


def test_a_full_disk_stops_the_run_with_its_own_error(tmp_path):
    """It crosses the pipe as what it is."""
    with pytest.raises(StorageError, match=r"^/out: No space left on device$"):
        shards_in_child(tmp_path, {5: "storage"})


def test_a_model_that_cannot_load_stops_the_run(tmp_path):
    """With its reason, and no process stays behind."""

    def fail():
        raise RuntimeError("the weights are from another planet")

    fakes.write_images(tmp_path / "in", 1)
    before = set(descendants(os.getpid()))
    with pytest.raises(ModelLoadError, match="RuntimeError: the weights are from another planet"):
        annotate(tmp_path, fail)

    assert set(descendants(os.getpid())) <= before


def test_a_driver_that_stops_takes_the_process_along(tmp_path):
    """What raises in the callback, as Ctrl-C does, ends it; a run in one process goes on."""
    fakes.write_images(tmp_path / "in", 8)
    before, handler = set(descendants(os.getpid())), signal.getsignal(signal.SIGINT)

    def stop(event):
        if hasattr(event, "sha256"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        annotate(tmp_path, fakes.make_disc_segmenter, on_event=stop)

    assert set(descendants(os.getpid())) <= before
    again = annotate(tmp_path, fakes.make_disc_segmenter, executor="inline")
    assert again.session.num_images == 4
    assert signal.getsignal(signal.SIGINT) is handler
