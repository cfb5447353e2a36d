"""Short runs of the fuzzers, and planted bugs that they must find."""

from pathlib import Path

import numpy as np
import pytest

from sam_engine.errors import ImageError
from tests.corpus.image_corpus import cases
from tests.faults import decode, fuzzing, images, rle
from tests.faults.fuzzing import fuzz


def test_crash_and_hang_are_found_and_named(monkeypatch):
    """A child that dies, and one that hangs, cost one input each, which is named; all others are tried."""
    monkeypatch.setattr(fuzzing, "STUCK_AFTER_S", 2.0)
    found = fuzz("planted_fuzz", 0, 8, 7)

    assert found.crashes == [
        "planted_fuzz --seed 7: input 3 ended with -11",
        "planted_fuzz --seed 7: input 5 hung",
    ]
    assert found.outcomes == {"in a batch that was cut off": 4, "fine 7": 2}


def test_mutated_images_break_nothing():
    """440 mutated images, 20 of each kind of file: no crash, no hang, no more memory than promised."""
    result = decode.run_decode(Path(), 440, 0)

    assert result.violations == []
    assert sum(result.outcomes.values()) == 440
    assert result.outcomes["corrupt"] > 50
    assert result.outcomes["truncated"] > 50


def test_planted_decoder_bug_is_found(monkeypatch):
    """A decoder that lets through what another process refuses is noticed."""

    def careless(data, config, buffer=None):
        try:
            return sound(data, config, buffer)
        except ImageError:
            return sound(cases()["ok.jpg"].data, config, buffer)

    sound = decode.decode_image
    monkeypatch.setattr(decode, "decode_image", careless)
    monkeypatch.setattr(decode, "ISOLATED_EVERY", 1)
    violations = []
    decode._compare_isolated(5, 0, violations)

    assert violations


def test_hostile_run_lengths_break_nothing():
    """9,000 hostile encodings: none crashes, and those accepted are what pycocotools makes of them."""
    result = rle.run_rle(Path(), 9_000, 0)

    assert result.violations == []
    assert sum(result.outcomes.values()) == 9_000
    assert result.outcomes["equal"] > 1_000


@pytest.mark.parametrize(
    ("bug", "verdict"),
    [("area_of", "other area"), ("decode_runs", "other mask"), ("bbox_of", "other box")],
)
def test_planted_run_length_bugs_are_found(monkeypatch, bug, verdict):
    """An area, a mask or a box that is off by one is noticed."""
    sound = getattr(rle, bug)

    def off_by_one(*arguments):
        answer = sound(*arguments)
        return (
            ~answer
            if isinstance(answer, np.ndarray)
            else (9, *answer[1:])
            if bug == "bbox_of"
            else answer + 1
        )

    monkeypatch.setattr(rle, bug, off_by_one)
    step = rle.make_step(0)

    assert f"sound: {verdict}" in {step(number) for number in range(0, 45, 9)}


def test_inputs_are_made_again_from_seed_and_number():
    """A crash can be made again: equal seed and number give equal bytes, another seed others."""
    assert decode.make_input(3, 77) == decode.make_input(3, 77)
    assert decode.make_input(3, 77) != decode.make_input(4, 77)
    assert rle.make_input(3, 78) == rle.make_input(3, 78)


def test_bombs_are_refused_without_memory():
    """Two bombs, each in a process of its own: refused by their header, for almost no memory."""
    result = images.run_bombs(Path(), 2, 0)

    assert result.outcomes == {"too_large": 2}
    assert [line for line in result.violations if " s and " not in line] == []
