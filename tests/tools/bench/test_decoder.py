"""The decoder's stopwatch."""

import json

import pytest

from sam_engine.errors import ConfigError
from tools.bench import decoder


def test_times_are_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Every step has a time; a ratio is that of a slower decoder to both phases of the fast one."""
    code = decoder.main(["--model", "tiny", "--prompts", "1", "--repeats", "1", "--json"])
    times = json.loads(capsys.readouterr().out)

    assert code == 0
    assert list(times) == [
        "slow twin",
        "once for an image",
        "transformer",
        "upscaling",
        "upscaling of a 3:2 image",
        "slow twin / fast, square",
        "slow twin / fast, 3:2",
    ]
    assert all(value > 0 for value in times.values())
    for shape, upscaling in (("square", "upscaling"), ("3:2", "upscaling of a 3:2 image")):
        fast = times["transformer"] + times[upscaling]
        assert times[f"slow twin / fast, {shape}"] == pytest.approx(times["slow twin"] / fast)


@pytest.mark.reference
def test_the_reference_is_timed_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    """With a time and two ratios of its own."""
    command = ["--model", "tiny", "--prompts", "1", "--repeats", "1", "--json", "--reference"]
    try:
        decoder.main(command)
    except ConfigError as error:
        pytest.skip(str(error))
    times = json.loads(capsys.readouterr().out)
    fast = times["transformer"] + times["upscaling"]

    assert times["reference / fast, square"] == pytest.approx(times["reference"] / fast)
    assert "reference / fast, 3:2" in times


def test_times_are_printed_as_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each step, in milliseconds."""
    decoder.main(["--model", "tiny", "--prompts", "1", "--repeats", "1"])
    lines = capsys.readouterr().out.splitlines()

    assert [line.endswith(" ms") for line in lines] == [True] * 5 + [False] * 2
