"""The program pipelines.evaluate."""

import json
from pathlib import Path

import pytest

from pipelines import evaluate
from pipelines.config import main
from tests.helpers.drawn_data import write_tar

SMALL = ["model.checkpoint=random", "amg.points_per_side=2", "threads=1", "limit=1"]


@pytest.fixture(scope="module")
def truth_tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One drawn image with two masks."""
    return write_tar(tmp_path_factory.mktemp("truth") / "drawn.tar", [0])


def test_tables_json_and_plots(truth_tar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Everything is printed and written; the image-blind baselines and the line on thresholds are there."""
    pytest.importorskip("matplotlib")
    output = tmp_path / "scores"

    code = main(evaluate.COMMAND, evaluate.run, [f"truth=[{truth_tar}]", f"output={output}", *SMALL])

    printed = capsys.readouterr().out
    assert code == 0
    assert all(
        word in printed
        for word in ("disc", "ellipse", "AR@1000", "| candidates", "Filtering at predicted IoU")
    )
    assert sorted(path.name for path in output.iterdir()) == ["drawn.png", "scores.json", "scores.md"]
    scores = json.loads((output / "scores.json").read_text())
    assert scores["scores"]["drawn"]["prompts"]["masks"] == 2
    assert scores["pooled"]["candidates"] == 12
    assert (output / "scores.md").read_text() in printed


def test_prompts_alone(truth_tar: Path, capsys: pytest.CaptureFixture[str]):
    """parts=[prompts] decodes no grid, and without an output nothing is written."""
    assert main(evaluate.COMMAND, evaluate.run, [f"truth=[{truth_tar}]", "parts=[prompts]", *SMALL]) == 0

    printed = capsys.readouterr().out
    assert "| click" in printed
    assert "AR@" not in printed


def test_only_the_images_that_are_named(tmp_path: Path):
    """Ids takes them from whichever truth has them, however far down; each is scored by itself."""
    write_tar(tmp_path / "a.tar", range(4))
    write_tar(tmp_path / "b.tar", range(4, 8))
    truths = f"truth=[{tmp_path}/a.tar,{tmp_path}/b.tar]"
    arguments = [truths, "parts=[prompts]", f"output={tmp_path}/scores", "plots=false", *SMALL[:-1]]

    assert main(evaluate.COMMAND, evaluate.run, [*arguments, "ids=[103,105,106]"]) == 0
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())["scores"]
    assert [scores[name]["prompts"]["images"] for name in ("a", "b")] == [1, 2]


def test_an_id_that_is_nowhere_is_named(truth_tar: Path, capsys: pytest.CaptureFixture[str]):
    """A score of fewer images than asked for would be taken for theirs."""
    assert main(evaluate.COMMAND, evaluate.run, [f"truth=[{truth_tar}]", "ids=[100,7]", *SMALL]) == 2
    assert "ids: no truth has an image 7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "truth is empty"),
        (["truth=[/nowhere/a.tar]"], "/nowhere/a.tar: there is no such file or folder"),
        (["parts=[clicks]"], "parts must be some of prompts, grid, got 'clicks'"),
        (["truth=[a.json]", "images=[a,b]"], "images must be null or a path for each of truth"),
        (["grid_limit=0"], "grid_limit must be at least 1, got 0"),
    ],
)
def test_mistakes_end_with_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    """Exit code 2, before a model is loaded."""
    assert main(evaluate.COMMAND, evaluate.run, arguments) == 2

    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_truths_of_one_name_are_refused(truth_tar: Path, capsys: pytest.CaptureFixture[str]):
    """Their scores could not be told apart."""
    assert main(evaluate.COMMAND, evaluate.run, [f"truth=[{truth_tar},{truth_tar}]"]) == 2

    assert "names must differ to be told apart, got drawn, drawn" in capsys.readouterr().err
