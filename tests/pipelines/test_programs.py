"""What all four programs have in common at their edges: one log, and signals."""

import json
import logging
import os
import signal

import pytest

from pipelines import auto_annotate, evaluate, loop, train
from pipelines.config import main

PROGRAMS = {"auto_annotate": auto_annotate, "evaluate": evaluate, "loop": loop, "train": train}


@pytest.fixture(params=PROGRAMS)
def program(request):
    return PROGRAMS[request.param]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_one_line_and_its_code(program, number, capsys):
    """Wherever it comes, from the first line on: 130 or 143, and what to do next."""

    def stopped(_):
        os.kill(os.getpid(), number)

    assert main(program.COMMAND, stopped, []) == 128 + number
    assert capsys.readouterr().err == f"stopped by {number.name}; {program.COMMAND.after_signal}\n"


def test_ctrl_c_while_the_settings_are_read_is_a_line_too(program, capsys, monkeypatch):
    """Before there is a run."""

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.config.load", interrupted)

    assert main(program.COMMAND, program.run, []) == 130
    assert capsys.readouterr().err.startswith("stopped by SIGINT; the same command")


SETTINGS = {
    auto_annotate: ["input={photos}", "model.checkpoint=random", "executor=inline", "amg.points_per_side=1"],
    train: ["data.sources=[{photos}]", "data.pack_only=true"],
    evaluate: ["truth=[{photos}]"],
    loop: ["labelled=[{photos}]", "unlabelled={photos}", "heldout=[{photos}/held-out]"],
}


def test_log_can_be_json(program, capsys, monkeypatch, tmp_path):
    """Whatever a program says on stderr through its log is then an object on a line."""

    def say(*_, **__):
        logging.getLogger("pipelines").info("a thing")
        raise KeyboardInterrupt

    target = {
        auto_annotate: "pipelines.auto_annotate.annotate_dataset",
        train: "sam_engine.training.prepare.packed_path",
        evaluate: "pipelines.evaluate._evaluate",
        loop: "pipelines.loop.resolve_checkpoint",
    }[program]
    monkeypatch.setattr(target, say)
    monkeypatch.setattr(
        "sam_engine.evaluation.truth.open_truth", lambda *_, **__: type("T", (), {"name": "t"})
    )
    settings = [each.format(photos=tmp_path) for each in SETTINGS[program]]

    assert main(program.COMMAND, program.run, [*settings, f"output={tmp_path}/out", "log.format=json"]) == 130
    line = json.loads(capsys.readouterr().err.splitlines()[0])
    assert (line["level"], line["message"]) == ("info", "a thing")
