"""The program pipelines.loop."""

import json
from pathlib import Path

import pytest

from pipelines import loop
from pipelines.config import main
from sam_engine.dataset.correction_log import read_corrections
from tests.helpers.drawn_data import write_tar


def contents(output: Path) -> dict[str, bytes]:
    """Return what must not be made again, by path."""
    patterns = ("annotated/annotations/*", "*.npz", "*/log.csv", "scores/*/*", "report.*")
    paths = [path for pattern in patterns for path in output.glob(pattern)]
    return {
        str(path.relative_to(output)): (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(paths)
    }


def test_once_round_and_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """All stages run and are reported; the same command again makes nothing but the report anew."""
    output = tmp_path / "loop"
    arguments = [
        f"labelled=[{write_tar(tmp_path / 'train.tar', [0])}]",
        f"unlabelled={write_tar(tmp_path / 'more.tar', [1])}",
        f"heldout=[{write_tar(tmp_path / 'eval.tar', [2])}]",
        f"output={output}",
        "executor=inline",
        "seeds=[3]",
        "amg.points_per_side=4",
        "amg.pred_iou_thresh=0",
        "amg.stability_score_thresh=0",
        "train.total_steps=1",
        "train.images_per_step=1",
        "train.prompts_per_image=2",
        "train.image_size=32",
        "train.log_steps=1",
        "train.threads=1",
    ]

    assert main(loop.COMMAND, loop.run, arguments) == 0
    first, printed = contents(output), capsys.readouterr().out
    assert main(loop.COMMAND, loop.run, arguments) == 0
    second = contents(output)

    assert "masks on 1 images that the model annotated; 1 steps in each arm, 1 seeds" in printed
    assert sorted(path.name for path in (output / "scores").iterdir()) == [
        "before",
        "control-seed3",
        "loop-seed3",
    ]
    assert [len(c["gains"]) for c in json.loads((output / "report.json").read_text())["comparisons"]] == [
        1
    ] * 4
    unchanged = {path for path in first if not path.startswith("report")}
    assert {path: first[path] for path in unchanged} == {path: second[path] for path in unchanged}
    assert first["report.md"][1] == second["report.md"][1]


@pytest.mark.slow
def test_three_stages_and_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Each has its own images, a log of what the oracle said, a training, a line; nothing is made twice."""
    output = tmp_path / "loop"
    arguments = [
        "stages=[manual,semi,auto]",
        f"unlabelled={write_tar(tmp_path / 'more.tar', [1, 3, 4])}",
        f"heldout=[{write_tar(tmp_path / 'eval.tar', [2])}]",
        f"output={output}",
        "executor=inline",
        "seeds=[3]",
        "amg.points_per_side=2",
        "amg.pred_iou_thresh=0",
        "amg.stability_score_thresh=0",
        "oracle.max_clicks=1",
        "train.total_steps=1",
        "train.images_per_step=1",
        "train.prompts_per_image=2",
        "train.image_size=32",
        "train.threads=1",
    ]

    assert main(loop.COMMAND, loop.run, arguments) == 0
    rounds = json.loads((output / "report.json").read_text())["rounds"]
    logs = {path: path.read_bytes() for path in output.glob("*/dataset/corrections/*")}
    report = (output / "report.md").read_text()
    assert main(loop.COMMAND, loop.run, arguments) == 0

    assert [(each["stage"], each["images"]) for each in rounds] == [("manual", 1), ("semi", 1), ("auto", 1)]
    assert [each["prompts"] > 0 for each in rounds] == [True, True, False]
    assert [
        len(read_corrections(output / f"{name}/dataset")) for name in ("1-manual", "2-semi", "3-auto")
    ] == [
        1,
        1,
        0,
    ]
    assert rounds[0]["masks"] == 2  # of bare photos: what was drawn, and nothing else
    assert "| 3 auto" in report
    assert {path: path.read_bytes() for path in output.glob("*/dataset/corrections/*")} == logs
    assert (output / "report.md").read_text() == report


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "labelled is empty"),
        (["labelled=[a.tar]"], "unlabelled is empty"),
        (
            ["labelled=[a.tar]", "unlabelled=b", "heldout=[c.tar]", "model.checkpoint=random"],
            "has learnt nothing",
        ),
        (["stages=[manual,last]"], "stages must be of manual, semi, auto, got ['manual', 'last']"),
        (["annotator=ada"], "annotator must be oracle, got 'ada'"),
        (["oracle.max_clicks=0"], "oracle.max_clicks must be at least 1, got 0"),
        (["train.seed=1"], "train.seed is the loop's to set"),
    ],
)
def test_mistakes_end_with_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    """Exit code 2, and nothing is made."""
    assert main(loop.COMMAND, loop.run, arguments) == 2

    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_held_out_images_are_not_learnt_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The same tar as labelled and heldout is refused before anything is made."""
    tar = write_tar(tmp_path / "a.tar", [0])
    arguments = [f"labelled=[{tar}]", f"heldout=[{tar}]", "unlabelled=photos", f"output={tmp_path}/loop"]

    assert main(loop.COMMAND, loop.run, arguments) == 2
    assert "which is learnt from" in capsys.readouterr().err
    assert not (tmp_path / "loop").exists()


def test_failed_images_may_be_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``max_failed_fraction`` is the annotation's; it may be raised when the loop is run again."""
    asked = []

    def refuse(config):
        asked.append(config.max_failed_fraction)
        return 3

    monkeypatch.setattr(loop.auto_annotate, "run", refuse)
    settings = ["labelled=[a.tar]", "unlabelled=in", "heldout=[b.tar]", f"output={tmp_path}/loop"]

    assert main(loop.COMMAND, loop.run, settings) == 3
    assert main(loop.COMMAND, loop.run, [*settings, "max_failed_fraction=0.5"]) == 3
    assert asked == [0.05, 0.5]
