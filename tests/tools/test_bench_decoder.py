"""The decoder's stopwatch."""

import json

import pytest

from tools import bench_decoder


def test_times_are_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Every step has a time, and the ratio is that of the slow twin to both phases of the fast decoder."""
    code = bench_decoder.main(["--model", "tiny", "--prompts", "1", "--repeats", "1", "--json"])
    times = json.loads(capsys.readouterr().out)

    assert code == 0
    assert list(times) == [
        "slow twin",
        "once for an image",
        "transformer",
        "upscaling",
        "upscaling of a 3:2 image",
        "ratio",
    ]
    assert all(value > 0 for value in times.values())
    assert times["ratio"] == pytest.approx(times["slow twin"] / (times["transformer"] + times["upscaling"]))


def test_times_are_printed_as_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each step, in milliseconds."""
    bench_decoder.main(["--model", "tiny", "--prompts", "1", "--repeats", "1"])
    lines = capsys.readouterr().out.splitlines()

    assert [line.endswith(" ms") for line in lines] == [True] * 5 + [False]
