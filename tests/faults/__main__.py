"""python -m tests.faults: run campaigns against the real pipeline; exit 1 if one promise was broken."""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
for folder in (str(TESTS.parent), str(TESTS)):  # the fakes; pipelines and tools
    if folder not in sys.path:
        sys.path.append(folder)

from .cost import run_cost  # noqa: E402
from .decode import run_decode  # noqa: E402
from .flips import run_flips  # noqa: E402
from .images import run_bombs, run_isolation  # noqa: E402
from .kills import run_kills  # noqa: E402
from .powerloss import run_power_loss  # noqa: E402
from .result import Order, Result, timed  # noqa: E402
from .rle import run_rle  # noqa: E402
from .scene import Scene, make_scene  # noqa: E402
from .selftest import run_selftest  # noqa: E402
from .syscalls import run_shim, run_strace  # noqa: E402
from .zombies import run_zombies  # noqa: E402

Campaign = Callable[[Path, Order], Result]
"""Takes a work folder and an order."""

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
    "powerloss": (
        "enumerate what a disk may hold after a power failure, and resume from there",
        _in_scene(run_power_loss),
    ),
    "zombies": ("let a run go on that another has overtaken, the lock defeated", _in_scene(run_zombies)),
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
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description=__doc__,
        epilog="\n".join(f"{name:12}{text}" for name, (text, _) in CAMPAIGNS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("campaigns", nargs="+", choices=[*CAMPAIGNS, "all"], metavar="CAMPAIGN")
    parser.add_argument("--n", type=int, help="how many faults to inject; default: all there are, or many")
    parser.add_argument("--images", type=int, default=16, help="in each run; two make a shard")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--work", help="folder for temporary files; one on a RAM disk is faster")
    options = parser.parse_args()
    order = Order(limit=options.n, seed=options.seed, images=options.images)
    results = []
    for name in CAMPAIGNS if "all" in options.campaigns else options.campaigns:
        with tempfile.TemporaryDirectory(dir=options.work) as work:
            result = timed(CAMPAIGNS[name][1], Path(work).resolve(), order)
        print(result, flush=True)
        results.append(result)
    if options.json is not None:
        document = {"seed": options.seed, "campaigns": [vars(result) for result in results]}
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 1 if any(result.violations for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
