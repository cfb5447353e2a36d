"""C: the mask generator on the device: how often it waits, and that it finds what a CPU finds."""

import functools
from functools import partial

from sam_engine.amg.mask_finder import MaskFinder

from ..meters import count_syncs
from .ledger import Finding, Step
from .subjects import (
    Subjects,
    cpu_twin,
    find,
    find_in_pairs,
    no_waits,
    same_masks,
    share_found,
)

MODEL = "tiny"


def steps(subjects: Subjects) -> list[Step]:
    """Return the steps of the letter."""
    against_cpu = {
        "the CPU's masks": ((683, 1024), {"points_per_side": 16}),
        "the CPU's masks, with crops": ((500, 750), {"crop_n_layers": 1, "points_per_side": 16}),
        "the CPU's masks, cleaned up": ((160, 240), {"min_mask_region_area": 100, "points_per_side": 16}),
    }
    works = {
        "no waits but for events": partial(wait, subjects),
        "pairs are what images are alone": partial(pair, subjects),
        "a grid of several groups": partial(grid, subjects),
        **{
            name: partial(compare, subjects, size, settings) for name, (size, settings) in against_cpu.items()
        },
    }
    return [Step(letter="C", name=name, work=work) for name, work in works.items()]


def wait(subjects: Subjects, found: Finding) -> None:
    """Two readings an image, each at an event; torch itself finds nothing that waits."""
    finder = MaskFinder(subjects.model(MODEL), subjects.config(MODEL))
    image = subjects.image(683, 1024)
    found.facts["masks"] = len(find(finder, image))
    with no_waits(subjects.device):
        find(finder, image)
    if subjects.is_cuda:
        waits = count_syncs(functools.partial(find, finder, image))
        found.facts["waits"] = waits
        found.hold("an image is waited for twice", waits == 2)


def pair(subjects: Subjects, found: Finding) -> None:
    """Images begun while the one before is in hand have the masks that they have alone, to the last bit."""
    finder = MaskFinder(subjects.model(MODEL), subjects.config(MODEL))
    images = [subjects.image(683 - 40 * i, 1024, seed=i) for i in range(2 if subjects.is_dry else 6)]
    alone = [find(finder, image) for image in images]
    together = find_in_pairs(finder, images)
    same = [same_masks(a, b) for a, b in zip(together, alone, strict=True)]
    found.facts |= {"images": len(images), "masks": sum(map(len, alone)), "the same": sum(same)}
    found.hold("all are the same", all(same))


def grid(subjects: Subjects, found: Finding) -> None:
    """More points than one group holds: a reading for each group, and the CPU's masks."""
    side = 6 if subjects.is_dry else 64
    config = subjects.config(MODEL, points_per_side=side, points_per_batch=1 if subjects.is_dry else 64)
    finder, image = MaskFinder(subjects.model(MODEL), config), subjects.image(683, 1024)
    masks = find(finder, image)
    found.facts["masks"] = len(masks)
    if subjects.is_cuda:
        waits = count_syncs(functools.partial(find, finder, image))
        found.facts["waits"] = waits
        found.hold("each of four groups is waited for once, the outlines once", waits == 5)
    found.hold("some masks are found", len(masks) > 0)


def compare(subjects: Subjects, size: tuple[int, int], settings: dict[str, int], found: Finding) -> None:
    """The device's masks and the CPU's, matched both ways."""
    if subjects.is_dry and "points_per_side" in settings:
        settings = {**settings, "points_per_side": 3}
    config, sam, image = subjects.config(MODEL, **settings), subjects.model(MODEL), subjects.image(*size)
    ours = find(MaskFinder(sam, config), image)
    theirs = MaskFinder(cpu_twin(sam), config).find(image)
    shares = [share_found(a, b, image.shape[:2]) for a, b in ((ours, theirs), (theirs, ours))]
    found.facts |= {"masks": len(ours), "on the CPU": len(theirs), "matched": min(shares)}
    found.hold("99 % of the masks have a counterpart, either way", min(shares) >= 0.99)
