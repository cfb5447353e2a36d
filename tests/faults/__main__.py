"""python -m tests.faults: run campaigns against the real pipeline; exit 1 if one promise was broken."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:  # pipelines and tools
    sys.path.append(ROOT)

from .buckets import kills_in, requests_of  # noqa: E402
from .command import Campaign, run_command  # noqa: E402
from .corrections import run_corrections  # noqa: E402
from .cost import run_cost  # noqa: E402
from .decode import run_decode  # noqa: E402
from .drivers import run_drivers  # noqa: E402
from .flips import run_flips  # noqa: E402
from .images import run_bombs, run_isolation  # noqa: E402
from .kills import run_kills  # noqa: E402
from .powerloss import run_power_loss  # noqa: E402
from .result import Order, Result  # noqa: E402
from .rle import run_rle  # noqa: E402
from .scene import Scene, make_scene  # noqa: E402
from .selftest import run_selftest  # noqa: E402
from .syscalls import run_shim, run_strace  # noqa: E402
from .zombies import run_zombies  # noqa: E402

FUZZED = 1_000_000
"""Inputs of the fuzzing campaigns."""


def _in_scene(campaign: Callable[[Scene, Order], Result]) -> Campaign:
    """Return a campaign that gets photos and what an undisturbed run makes of them."""
    return lambda work, order: campaign(make_scene(work, num_images=order.images), order)


def _count(campaign: Callable[[Path, int, int], Result], default: int | None) -> Campaign:
    """Return a campaign that takes a number of inputs."""
    return lambda work, order: campaign(work, order.limit or default, order.seed)  # type: ignore[arg-type]


CAMPAIGNS: Mapping[str, tuple[str, Campaign]] = {
    "syscalls": ("fail or kill at every k-th system call, by strace", _in_scene(run_strace)),
    "calls": ("fail or kill at every k-th call of os: more kinds, and no strace", _in_scene(run_shim)),
    "kill": ("SIGKILL at random moments", _in_scene(run_kills)),
    "kill-s3": ("SIGKILL at random moments, from bucket to bucket (moto)", kills_in("s3")),
    "kill-azure": ("the same with Azurite", kills_in("azure")),
    "requests-s3": ("lose, refuse, cut and delay requests, from bucket to bucket (moto)", requests_of("s3")),
    "requests-azure": ("the same with Azurite", requests_of("azure")),
    "drivers": (
        "start eight drivers of one output at once, fifty times, and kill some",
        _in_scene(run_drivers),
    ),
    "powerloss": (
        "enumerate what a disk may hold after a power failure, and resume from there",
        _in_scene(run_power_loss),
    ),
    "zombies": ("let a run go on that another has overtaken, the lock defeated", _in_scene(run_zombies)),
    "corrections": (
        "break the annotator while people work: no act that it answered is lost",
        run_corrections,
    ),
    "flips": ("flip one bit of a shard: reader and tools.verify must notice", _in_scene(run_flips)),
    "selftest": ("plant known bugs; the campaigns above must find each", _in_scene(run_selftest)),
    "cost": ("measure what syncing, linking and reading back cost", run_cost),
    "decode": ("decode mutated images", _count(run_decode, FUZZED)),
    "rle": ("decode hostile run-length encodings", _count(run_rle, FUZZED)),
    "bombs": ("show decompression bombs to the decoder", _count(run_bombs, None)),
    "isolation": ("measure what decoding in another process costs", _count(run_isolation, None)),
}


def main() -> int:
    """Run the campaigns asked for; print a line for each."""
    return run_command(
        "python -m tests.faults",
        __doc__,
        CAMPAIGNS,
        n_help="how many faults to inject; default: all there are, or many",
        takes_images=True,
    )


if __name__ == "__main__":
    sys.exit(main())
