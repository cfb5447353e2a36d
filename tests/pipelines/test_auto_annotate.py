"""The program from end to end, in this process, with a model that costs nothing."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipelines.auto_annotate import COMMAND, command_line, describe, run
from pipelines.config import load
from sam_engine.annotation.preparation import prepare
from sam_engine.compute.signals import Stopped, stopped_by_signals
from sam_engine.dataset.reader import open_dataset
from sam_engine.errors import ConfigError
from tests.helpers import fakes
from tests.helpers.annotating import annotate, read_json

INLINE = ("model.checkpoint=random", "executor=inline", "amg.points_per_side=2", "previews=0")


def test_shard_that_raises_names_the_image_and_keeps_the_rest(tmp_path):
    """An image that raises twice becomes a row; neighbours and other shards are whole."""
    fakes.write_images(tmp_path / "in", 6)
    fakes.write_image(tmp_path / "in/003.png", fakes.RAISING)
    code = annotate(tmp_path / "in", tmp_path / "out", shard_size=2)
    rows = list(open_dataset(tmp_path / "out").records())

    assert code == 3
    assert [str(row.status) for row in rows] == ["ok", "ok", "ok", "worker_crash", "ok", "ok"]
    assert rows[3].error == "IndexError: no such thing"


def test_shard_given_up_is_named_and_exit_1(tmp_path, capsys):
    """With one attempt there is no second look: the shard is named, the others are published."""
    fakes.write_images(tmp_path / "in", 4)
    fakes.write_image(tmp_path / "in/003.png", fakes.RAISING)
    code = annotate(tmp_path / "in", tmp_path / "out", shard_size=2, executor__max_shard_attempts=1)

    assert code == 1
    assert "given up  shard 1: IndexError: no such thing" in capsys.readouterr().out
    assert list(fakes.shard_bytes(tmp_path / "out")) == ["shard-000000.parquet"]
    assert not (tmp_path / "out/_SUCCESS.json").exists()
    assert read_json(tmp_path / "out", "_meta/report.json")["complete"] is False


def test_run_after_a_shard_was_given_up_goes_on(tmp_path):
    """Whatever was wrong is mended, the same command finishes the dataset."""
    fakes.write_images(tmp_path / "in", 4)
    config = fakes.run_settings(
        input=str(tmp_path / "in"),
        output=str(tmp_path / "out"),
        shard_size=2,
        executor__max_shard_attempts=1,
    )

    class Flaky(fakes.DiscSegmenter):
        calls = 0

        def encode(self, images):
            Flaky.calls += 1
            if Flaky.calls == 3:
                raise RuntimeError("once")
            return super().encode(images)

    assert [run(config, Flaky) for _ in range(2)] == [1, 0]
    assert (tmp_path / "out/_SUCCESS.json").exists()


def test_model_that_cannot_load_is_exit_1(tmp_path, capsys, monkeypatch):
    """The reason is the line."""
    from pipelines.config import main

    fakes.write_images(tmp_path / "in", 2)

    def fail():
        raise RuntimeError("the weights are from another planet")

    code = main(
        COMMAND, lambda config: run(config, fail), [f"input={tmp_path}/in", f"output={tmp_path}/out", *INLINE]
    )

    assert code == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: the model cannot be loaded: RuntimeError: the weights are from another planet"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["input={tmp}/nowhere"], 2, "nowhere' does not exist"),
        (["input={tmp}/empty"], 2, "no images in"),
        (["model=vit_x"], 2, "model is 'vit_x'; choose from tiny, vit_b, vit_h, vit_l"),
        (["modle=tiny"], 2, "did you mean model?"),
        (["model.checkpoint={tmp}/nothing.pth"], 2, "nothing.pth"),
        (["model.checkpoint={tmp}/page.pth"], 2, "page.pth"),
        (["model.device=cuda:7"], 2, "model.device is 'cuda:7'"),
        (["amg.points_per_side=null"], 2, "amg.points_per_side"),
        (["output={tmp}/in/out"], 2, "lies inside input"),
        (["output={tmp}/foreign"], 2, "is not empty and holds no dataset"),
        (["output={tmp}/file"], 2, "is a file; give a directory"),
        (["output={tmp}/file/out"], 4, "file/out"),
        (["output=/proc/out"], 4, "/proc/out"),
        (["output=ftp://host/out"], 2, "ftp://"),
    ],
)
def test_mistakes_are_one_line_and_a_code(tmp_path, capsys, arguments, code, message):
    """Every mistake of a beginner ends with a line that names the thing, before a model is loaded."""
    fakes.write_images(tmp_path / "in", 2)
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.docx").write_bytes(b"years of work")
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "page.pth").write_bytes(b"<html>404</html>")
    given = [f"input={tmp_path}/in", f"output={tmp_path}/out", *INLINE]
    given += [argument.format(tmp=tmp_path) for argument in arguments]

    assert command_line(given) == code
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert (tmp_path / "foreign" / "thesis.docx").read_bytes() == b"years of work"
    assert not (tmp_path / "out" / "annotations").exists()


@pytest.mark.parametrize("name", ["a=b, (c) 'd' é ü", "#1 [x] {y}", "$HOME ${x}", "bad\udcff", "-x", "a\nb"])
def test_odd_paths_simply_work(tmp_path, name):
    """Input, image and output may be called anything that a file system allows."""
    folder = tmp_path / f"in {name}"
    fakes.write_image(folder / f"{name}.png")
    config = load(COMMAND, [f"input={folder}", f"output={tmp_path}/out {name}", *INLINE])

    assert run(config, fakes.make_disc_segmenter) == 0
    [record] = open_dataset(f"{tmp_path}/out {name}").records()
    assert record.path == os.fsencode(f"{name}.png")


def test_default_output_is_named_after_input_and_model(tmp_path, monkeypatch):
    """So that running again without output= goes on."""
    monkeypatch.chdir(tmp_path)
    fakes.write_images(tmp_path / "photos", 2)
    config = load(COMMAND, ["input=photos", *INLINE])

    assert run(config, fakes.make_disc_segmenter) == 0
    assert (tmp_path / "outputs/photos-tiny/_SUCCESS.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs", "photos"]


def test_defaults_take_the_sample_photos(tmp_path, monkeypatch):
    """With nothing given there are images to begin with."""
    pytest.importorskip("skimage")
    monkeypatch.chdir(tmp_path)
    preparation = prepare(load(COMMAND, ["model.checkpoint=random"]))

    assert len(preparation.manifest) == 8
    assert preparation.store.describe() == f"{tmp_path}/outputs/sample-photos-tiny"


def test_output_in_use_is_exit_5(tmp_path, capsys):
    """The line names the process that holds it."""
    fakes.write_images(tmp_path / "in", 2)
    arguments = [f"input={tmp_path}/in", f"output={tmp_path}/out", *INLINE]
    with prepare(load(COMMAND, arguments)).store.lock():
        code = command_line(arguments)

    assert code == 5
    assert f"another run is writing here (process {os.getpid()} on" in capsys.readouterr().err


def test_run_that_died_before_it_began_is_begun_again(tmp_path):
    """A manifest without run.json belongs to nobody: files may have come since."""
    fakes.write_images(tmp_path / "in", 2)
    annotate(tmp_path / "in", tmp_path / "out")
    for path in [*(tmp_path / "out").glob("annotations/*"), tmp_path / "out/_meta/run.json"]:
        path.unlink()
    for path in (tmp_path / "out").glob("*.*"):
        path.unlink()
    fakes.write_image(tmp_path / "in/new.png")

    assert annotate(tmp_path / "in", tmp_path / "out") == 0
    assert open_dataset(tmp_path / "out").num_images == 3


def test_json_log_is_json_on_every_line(tmp_path, capsys):
    """A program can follow a run."""
    fakes.write_images(tmp_path / "in", 2)
    annotate(tmp_path / "in", tmp_path / "out", log__format="json")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]

    assert [line["level"] for line in lines] == ["warning", "info", "info"]
    assert lines[1]["message"] == f"2 images, 1 shards, into {tmp_path}/out"


def test_progress_is_a_line_now_and_then(tmp_path, capsys, monkeypatch):
    """Where no terminal is, images, masks and speed appear as a line, counted over all shards."""
    monkeypatch.setattr("pipelines.progress.LINE_EVERY_S", 0.0)
    fakes.write_images(tmp_path / "in", 4)
    annotate(tmp_path / "in", tmp_path / "out", shard_size=2, log__format="json")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    progress = [line for line in lines if "images" in line]

    assert [line["images"] for line in progress] == [0, 1, 2, 2, 2, 3, 4, 4]
    assert {line["total"] for line in progress} == {4}


SCRIPT = """
import functools, sys, time
from tests.helpers import fakes
from pipelines.auto_annotate import COMMAND, command_line, run
from pipelines import auto_annotate
from sam_engine.compute import signals
make_model = functools.partial(fakes.make_troubled_segmenter, {delay})
if {stubborn}:
    class Stubborn(fakes.DiscSegmenter):
        num_encoded = 0
        def encode(self, images):
            self.num_encoded += 1
            if self.num_encoded == 3:
                try:
                    print("in hand", flush=True)
                    time.sleep(600)
                except signals.Stopped:
                    print("not yet", flush=True)
                    time.sleep(600)
            return super().encode(images)
    make_model = Stubborn
auto_annotate.run = functools.partial(run, make_model=make_model)
sys.exit(command_line(sys.argv[1:]))
"""


def start(arguments, delay, *, stubborn=False):
    """Start the program in a process of its own, with a model that is slow, or does not want to stop."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(delay=delay, stubborn=stubborn), *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for_shards(output, count, process):
    """Return once so many shards are published."""
    deadline = time.monotonic() + 60
    while len(list((output / "annotations").glob("*.parquet"))) < count:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_run_goes_on_to_the_same_bytes(tmp_path):
    """SIGKILL in the middle, the same command again: shards as those of a run that nobody disturbed."""
    fakes.write_images(tmp_path / "in", 24)
    annotate(tmp_path / "in", tmp_path / "calm", shard_size=2)
    arguments = [f"input={tmp_path}/in", f"output={tmp_path}/out", "shard_size=2", *INLINE]
    arguments += ["amg.points_per_batch=16", "amg.min_mask_region_area=0"]
    process = start(arguments, delay=0.05)
    wait_for_shards(tmp_path / "out", 3, process)
    process.kill()
    process.communicate()
    survivors = fakes.shard_bytes(tmp_path / "out")

    assert 3 <= len(survivors) < 12
    assert annotate(tmp_path / "in", tmp_path / "out", shard_size=2) == 0
    assert fakes.shard_bytes(tmp_path / "out") == fakes.shard_bytes(tmp_path / "calm")
    assert list((tmp_path / "out/_meta/tmp").iterdir()) == []


@pytest.mark.slow
def test_second_signal_ends_the_process_where_it_stands(tmp_path):
    """Who presses Ctrl-C twice does not wait for an image that takes an hour. The run can go on."""
    fakes.write_images(tmp_path / "in", 6)
    arguments = [f"input={tmp_path}/in", f"output={tmp_path}/out", "shard_size=2", *INLINE]
    arguments += ["amg.points_per_batch=16", "amg.min_mask_region_area=0"]
    annotate(tmp_path / "in", tmp_path / "calm", shard_size=2)
    process = start(arguments, delay=0, stubborn=True)
    said = []
    for _ in range(2):
        said.append(process.stdout.readline())
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)

    assert said == ["in hand\n", "not yet\n"]
    assert process.returncode == 130
    assert len(fakes.shard_bytes(tmp_path / "out")) == 1
    assert annotate(tmp_path / "in", tmp_path / "out", shard_size=2) == 0
    assert fakes.shard_bytes(tmp_path / "out") == fakes.shard_bytes(tmp_path / "calm")


def test_signal_in_native_code_stops_too():
    """Ray's wait() turns what a handler raises into a SystemError; other SystemErrors stay what they are."""

    def wait():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Stopped:
            raise SystemError("wait returned a result with an exception set") from None

    with pytest.raises(Stopped), stopped_by_signals():
        wait()
    with pytest.raises(SystemError, match="our own"), stopped_by_signals():
        raise SystemError("our own")


def test_ctrl_c_before_the_run_begins_is_a_line_too(tmp_path, capsys, monkeypatch):
    """While the input is listed or torch is imported: exit 130, no traceback."""

    def interrupted(*_):
        raise KeyboardInterrupt

    fakes.write_images(tmp_path / "in", 1)
    monkeypatch.setattr("sam_engine.annotation.run.prepare", interrupted)

    assert command_line([f"input={tmp_path}/in", f"output={tmp_path}/out", *INLINE]) == 130
    assert capsys.readouterr().err == "stopped by SIGINT; the same command goes on from here\n"


def test_run_works_outside_the_main_thread(tmp_path):
    """A notebook or a server may call it: signals are then left alone."""
    fakes.write_images(tmp_path / "in", 2)
    codes = []
    thread = threading.Thread(target=lambda: codes.append(annotate(tmp_path / "in", tmp_path / "out")))
    thread.start()
    thread.join()

    assert codes == [0]


def test_unreadable_now_is_no_preview(tmp_path):
    """Previews are drawn from the files as they are; one that is gone is left out."""
    fakes.write_images(tmp_path / "in", 3)
    annotate(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in/001.png").unlink()
    (tmp_path / "out/_SUCCESS.json").unlink()

    assert annotate(tmp_path / "in", tmp_path / "out", previews=3) == 0
    assert sorted(p.name for p in (tmp_path / "out/previews").iterdir()) == ["000000000.jpg", "000000002.jpg"]


def test_point_grid_is_needed():
    """The reference's None has a meaning only beside point_grids."""
    with pytest.raises(ConfigError, match=r"amg\.points_per_side must be at least 1"):
        prepare(fakes.run_settings(amg__points_per_side=None))


def test_summary_reads_well_when_nothing_was_found(tmp_path, capsys):
    """No mask, no preview, no division by nothing."""
    fakes.write_images(tmp_path / "in", 1)
    code = annotate(tmp_path / "in", tmp_path / "out", amg__pred_iou_thresh=2.0, previews=2)
    printed = capsys.readouterr().out

    assert code == 0
    assert "masks     0" in printed
    assert "previews" not in printed
    assert describe.__doc__
