"""A: what the device's way is made of gives on the device what it gives on a CPU, and does not wait."""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from sam_engine.amg.draw_device import QueuedRuns
from sam_engine.amg.measure import LogitFrame
from sam_engine.amg.measure_device import is_whole, measure_masks, measures_of_table
from sam_engine.amg.packed_logits import KeptLogits
from sam_engine.compute.device import Download, upload
from sam_engine.ops.masks import count_true

from .ledger import Finding, Step
from .subjects import Subjects, drawn_logits, frame_of, no_waits, timed_ms

SIZES = ((750, 1125), (1500, 2250), (97, 131), (1, 900))
"""(H, W); the last two in a dry run."""
MANY = 4000
"""Flags in a row that are counted: more than a byte holds."""


def steps(subjects: Subjects) -> list[Step]:
    """Return the steps of the letter."""
    works = {
        "nonzero_static": lambda found: list_flags(subjects, found),
        "counts and running sums": lambda found: count(subjects, found),
        "measuring masks": lambda found: measure(subjects, found),
        "drawing masks, and a fence again": lambda found: draw(subjects, found),
    }
    return [Step(letter="A", name=name, work=work) for name, work in works.items()]


def list_flags(subjects: Subjects, found: Finding) -> None:
    """Lists of set flags: too long, too short, of one axis and of three."""
    flags = torch.rand(64, 129, 33 if subjects.is_dry else 1033) > 0.97
    there = upload(flags, subjects.device)
    total = int(flags.sum())
    for capacity in (total + 1000, total, total // 3):
        with no_waits(subjects.device):
            flat = torch.nonzero_static(there.flatten(), size=capacity)
            three = torch.nonzero_static(there, size=capacity, fill_value=-1)
        expected = (
            torch.nonzero_static(flags.flatten(), size=capacity),
            torch.nonzero_static(flags, size=capacity, fill_value=-1),
        )
        is_equal = torch.equal(flat.cpu(), expected[0]) and torch.equal(three.cpu(), expected[1])
        found.hold(f"nonzero_static with {capacity} places for {total} flags is the CPU's", is_equal)
    found.facts["flags"] = flags.numel()


def count(subjects: Subjects, found: Finding) -> None:
    """Sums of flags, and running sums as long as those of measuring."""
    length = 2**12 if subjects.is_dry else 2**22
    flags = torch.rand(9, length) > 0.5
    there = upload(flags, subjects.device)
    with no_waits(subjects.device):
        sums = count_true(there, dim=0).cumsum(dim=0, dtype=torch.int32)
        rows = count_true(there[:, :MANY])
    counts = flags.sum(dim=0)
    found.hold("running sums are the CPU's", torch.equal(sums.cpu(), counts.cumsum(dim=0).int()))
    found.hold("counts along rows are the CPU's", torch.equal(rows.cpu(), flags[:, :MANY].sum(dim=1).int()))
    found.facts["running sum, ms"] = timed_ms(subjects.device, lambda: sums.cumsum(0), 5)[1]


def measure(subjects: Subjects, found: Finding) -> None:
    """Stability, area and box of masks of all sizes."""
    logits = drawn_logits(12 if subjects.is_dry else 192, 64 if subjects.is_dry else 256)
    there = upload(logits, subjects.device)
    worst_area, worst_box = 0.0, 0
    for size in SIZES[2:] if subjects.is_dry else SIZES:
        frame = frame_of(size, 4 * logits.shape[1])
        wanted = torch.ones(len(logits), dtype=torch.bool)

        on_device = partial(_measured, there, frame, upload(wanted, subjects.device))
        with no_waits(subjects.device):
            table = on_device()
        ours, theirs = table.cpu(), _measured(logits, frame, wanted)
        found.hold(f"all masks are measured at {size}", bool(is_whole(ours).all()))
        mine, other = measures_of_table(ours), measures_of_table(theirs)
        area = (mine.area - other.area).abs() / other.area.clamp(min=1000)
        worst_area = max(worst_area, float(area.max()))
        worst_box = max(worst_box, int((mine.boxes_xyxy - other.boxes_xyxy).abs().max()))
        if size == SIZES[0]:
            took = timed_ms(subjects.device, on_device, 5)[1]
            found.facts[f"{len(logits)} masks of 750 x 1125, ms"] = took
    found.facts |= {"largest difference of an area": worst_area, "of a box, pixels": worst_box}
    found.hold("areas are within a thousandth", worst_area < 1e-3)
    found.hold("boxes are within two pixels", worst_box <= 2)


def _measured(logits: Tensor, frame: LogitFrame, wanted: Tensor) -> Tensor:
    """Measure masks with room for all their blocks, at a cut that no drawing's pixels hit."""
    return measure_masks(logits, frame, 0.0123, 1.0, wanted=wanted, open_share=1.0)


def draw(subjects: Subjects, found: Finding) -> None:
    """Run lengths, also of a fence whose changes do not fit, and is drawn again alone."""
    logits = drawn_logits(12 if subjects.is_dry else 60, 64 if subjects.is_dry else 256)
    size = SIZES[2] if subjects.is_dry else SIZES[0]
    frame = frame_of(size, 4 * logits.shape[1])
    wanted = torch.ones(len(logits), dtype=torch.bool)
    table = measure_masks(logits, frame, 0.0, 1.0, wanted=wanted, open_share=1.0)
    boxes = measures_of_table(table).boxes_xyxy
    expected = QueuedRuns(KeptLogits(list(logits)), frame, 0.0, boxes).runs_at_once((0, 0), size)
    kept = KeptLogits(list(upload(logits, subjects.device)))
    with no_waits(subjects.device):
        queued = QueuedRuns(kept, frame, 0.0, boxes)
        download = Download(queued.changes)
    runs = queued.runs(download.wait(), (0, 0), size)
    num_equal = sum(np.array_equal(a, b) for a, b in zip(runs, expected, strict=True))
    moved = max(_pixels_apart(a, b) for a, b in zip(runs, expected, strict=True))
    found.facts |= {"masks": len(runs), "equal to the CPU's": num_equal, "pixels apart at most": moved}
    found.hold("no mask is more than 0.1 % of the image apart", moved <= size[0] * size[1] / 1000)
    found.facts["drawing, ms"] = timed_ms(
        subjects.device, lambda: QueuedRuns(kept, frame, 0.0, boxes).changes, 3
    )[1]


def _pixels_apart(a: np.ndarray, b: np.ndarray) -> int:
    """Return how many pixels two masks of one size differ in, by their runs."""
    if np.array_equal(a, b):
        return 0
    ends = np.union1d(np.cumsum(a), np.cumsum(b))
    inside = [np.searchsorted(np.cumsum(runs), ends, side="left") % 2 for runs in (a, b)]
    return int(np.diff(ends, prepend=0)[inside[0] != inside[1]].sum())
