"""The simulated annotator: what it says, how long it takes, and that its clicks are on the thing."""

import numpy as np
import pytest

from sam_engine.dataset.correction_log import CorrectionLog, read_corrections
from sam_engine.dataset.correction_report import work_report
from sam_engine.dataset.corrections import Operation, Stage, apply_corrections, is_exhaustive
from sam_engine.ops.rle import decode_counts
from sam_engine.settings.oracle import OracleConfig
from sam_engine.stages.oracle import Oracle, click_in, iou
from tests.helpers.dataset_builder import image, rectangle_mask

PIXELS = np.zeros((48, 64, 3), np.uint8)
LEFT, RIGHT, SMALL = (
    rectangle_mask(48, 64, 4, 6, 20, 30),
    rectangle_mask(48, 64, 36, 8, 22, 25),
    rectangle_mask(48, 64, 30, 2, 4, 4),
)


class Predictor:
    """Gives the true mask under the first click from the ``after``-th click on, and half of it before."""

    def __init__(self, truth, after=1):
        self.truth, self.after = truth, after

    def set_image(self, pixels):
        assert pixels is PIXELS

    def predict(self, *, point_coords, point_labels, mask_input, multimask_output):
        (x, y), *_ = point_coords.astype(int)
        [mask] = [mask for mask in self.truth if mask[y, x]]
        if len(point_coords) < self.after:
            mask = mask & (np.arange(mask.shape[0]) < 20)[:, None]
        assert (mask_input is None) == (len(point_coords) == 1) == multimask_output
        return mask[None].astype(np.float32), np.ones(1), np.zeros((1, 8, 8))


def work(tmp_path, *, truth=(LEFT, RIGHT), shown=(), after=1, stage=Stage.MANUAL, **settings):
    """Let it work on one image; return its lines and the masks that it left."""
    record = image(0, b"a.jpg", shown, size=(48, 64))
    log = CorrectionLog(tmp_path, "oracle")
    Oracle(Predictor(truth, after), log, OracleConfig(**settings), stage, seed=1).annotate(
        record, PIXELS, truth
    )
    lines = read_corrections(tmp_path)[0]
    left = [decode_counts(mask.counts, mask.size) for mask in apply_corrections(record, lines)]
    return lines, left


def test_one_click_takes_14_seconds_and_gives_the_mask(tmp_path):
    """The last model of the paper's engine; small things are not noticed, and the image is exhaustive."""
    lines, left = work(tmp_path, truth=(LEFT, RIGHT, SMALL))
    [row] = work_report({0: lines})

    assert [line.operation for line in lines] == [Operation.ADD, Operation.ADD, Operation.ACCEPT]
    assert (row["stage"], row["prompts"], row["seconds"], row["seconds_per_mask"]) == ("manual", 2, 28, 14)
    assert is_exhaustive(lines)
    assert [(mask == true).all() for mask, true in zip(left, (LEFT, RIGHT), strict=True)] == [True, True]


def test_a_mask_that_clicks_do_not_give_is_drawn_after_34_seconds(tmp_path):
    """The first model of the paper's engine: six clicks and a brush; a pixel off, as hands are."""
    lines, [mask] = work(tmp_path, truth=(LEFT,), after=99)

    assert [prompt.kind for prompt in lines[0].prompts] == ["point"] * 6 + ["stroke"]
    assert lines[0].time_s == 34
    assert 0.8 < iou(mask, LEFT) <= 1


def test_clicks_go_where_the_mask_is_wrong(tmp_path):
    """The second is on what the first left out, and then it is enough."""
    lines, [mask] = work(tmp_path, truth=(LEFT,), after=2)
    first, second = lines[0].prompts

    assert first.foreground
    assert second.foreground
    assert second.coords[1] >= 20
    assert (mask == LEFT).all()


def test_what_is_there_is_judged_before_anything_is_drawn(tmp_path):
    """A near mask is accepted, another rejected, and only what is missing is drawn; 3 s a judgement."""
    near = np.roll(LEFT, 1, axis=1)
    lines, left = work(tmp_path, shown=(near, SMALL), stage=Stage.SEMI)

    assert [line.kind for line in lines] == ["accept", "reject", "draw", "done"]
    assert [line.time_s for line in lines] == [3, 3, 14, 0]
    assert {line.stage for line in lines} == {Stage.SEMI}
    assert [(mask == true).all() for mask, true in zip(left, (near, RIGHT), strict=True)] == [True, True]


def test_the_same_seed_says_the_same(tmp_path):
    """Clicks of another image, or of another seed, differ."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, _ = work(tmp_path / "a")
    again, _ = work(tmp_path / "b")

    assert [line.prompts for line in first] == [line.prompts for line in again]


@pytest.mark.parametrize("noise", [0, 2, 50])
def test_a_click_is_in_its_region(noise):
    """However unsteady the hand; without noise it is where a disc of the region would be largest."""
    ring = rectangle_mask(48, 64, 10, 10, 30, 30) & ~rectangle_mask(48, 64, 14, 14, 20, 22)
    clicks = [click_in(ring, noise, np.random.default_rng(seed)) for seed in range(30)]

    assert all(ring[int(y), int(x)] for x, y in clicks)
    assert (len(set(clicks)) == 1) == (noise == 0)
