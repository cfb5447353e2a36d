"""What a run says of itself."""

import logging
import sys
from pathlib import Path

import pytest

from sam_engine.training.config import TrainConfig
from sam_engine.training.journal import Journal


def rows(path: Path) -> list[list[str]]:
    return [line.split(",") for line in path.read_text().splitlines()]


def values(loss: float) -> dict[str, float]:
    return {"loss": loss, "iou": 0.5}


def test_a_row_is_the_mean_of_its_steps(tmp_path: Path):
    """Rows lie at multiples of the interval, also after a start in between."""
    with Journal(tmp_path, 3, TrainConfig(log_steps=4), is_first=True) as journal:
        for step, loss in enumerate([8.0, 1.0, 2.0, 3.0, 6.0, 5.0], start=4):
            journal.add(step, values(loss))

    header, *body = rows(tmp_path / "log.csv")
    assert header == ["step", "loss", "iou", "seconds_per_step"]
    assert [row[:3] for row in body] == [["4", "8", "0.5"], ["8", "3", "0.5"]]


def test_what_lies_beyond_the_checkpoint_is_taken_back(tmp_path: Path):
    """A killed process may have written rows, the last of them in part, that the resumed run writes again."""
    config = TrainConfig(log_steps=1)
    with Journal(tmp_path, 0, config, is_first=True) as journal:
        for step in range(1, 6):
            journal.add(step, values(float(step)))
        journal.add_scores(4, {"click": 0.25})
    with (tmp_path / "log.csv").open("a") as file:
        file.write("6,7.5")

    with Journal(tmp_path, 3, config, is_first=True) as journal:
        journal.add(4, values(40.0))

    assert [row[:2] for row in rows(tmp_path / "log.csv")[1:]] == [
        ["1", "1"],
        ["2", "2"],
        ["3", "3"],
        ["4", "40"],
    ]
    assert rows(tmp_path / "scores.csv") == [["step", "click"]]


def test_event_files_hold_the_rows(tmp_path: Path):
    """What TensorBoard shows is what the tables have."""
    from tensorboardX.proto.event_pb2 import Event

    with Journal(tmp_path, 0, TrainConfig(log_steps=1), is_first=True) as journal:
        journal.add(1, values(2.5))
        journal.add_scores(1, {"click": 0.25})

    [path] = (tmp_path / "events").iterdir()
    data, found = path.read_bytes(), {}
    while data:  # length, its checksum, the event, its checksum
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        data = data[16 + length :]
    assert found["train/loss", 1] == 2.5
    assert found["held_out/click", 1] == 0.25


def test_without_tensorboardx_there_is_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """The log says so once, and the run goes on."""
    monkeypatch.setitem(sys.modules, "tensorboardX", None)

    with (
        caplog.at_level(logging.INFO),
        Journal(tmp_path, 0, TrainConfig(log_steps=1), is_first=True) as journal,
    ):
        journal.add(1, values(2.5))
        journal.add(2, values(2.5))

    assert caplog.text.count("tensorboardX is not installed") == 1
    assert len(rows(tmp_path / "log.csv")) == 3
    assert not (tmp_path / "events").exists()


def test_other_processes_write_nothing(tmp_path: Path):
    """One of several processes speaks for all."""
    with Journal(tmp_path / "run", 0, TrainConfig(log_steps=1), is_first=False) as journal:
        journal.add(1, values(2.5))

    assert not (tmp_path / "run").exists()
