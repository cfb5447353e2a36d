"""python -m tests.faults.workers: kill workers, nodes and runs, look for leaks; exit 1 if a promise broke."""

import argparse
import functools
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
for folder in (str(TESTS.parent), str(TESTS)):  # the fakes; pipelines and tools
    if folder not in sys.path:
        sys.path.append(folder)

from .machine import run_machine  # noqa: E402
from .ray_kills import run_ray, run_ray_session  # noqa: E402
from .result import Order, Result, timed  # noqa: E402
from .soak import run_soak  # noqa: E402

CAMPAIGNS: Mapping[str, tuple[str, Callable[[Path, Order], Result]]] = {
    "machine": ("a user and an adversary, as a Hypothesis state machine", run_machine),
    "ray": ("SIGKILL of Ray's workers, nodes and drivers at random moments", run_ray),
    "raynoise": (
        "the same, while Ray's event loops are slowed down at random", functools.partial(run_ray, noise=True)
    ),
    "raysession": ("SIGKILL of the raylet and the GCS of a driver's own Ray", run_ray_session),
    "soak": ("many images in one process: memory, descriptors and processes stay flat", run_soak),
    "soakisolated": ("the same with decode.isolate=true", functools.partial(run_soak, isolate=True)),
    "soaktiny": ("the same with the bundled model", functools.partial(run_soak, tiny=True)),
}  # fmt: skip


def main() -> int:
    """Run the campaigns asked for; print a line for each."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.workers",
        description=__doc__,
        epilog="\n".join(f"{name:14}{text}" for name, (text, _) in CAMPAIGNS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("campaigns", nargs="+", choices=[*CAMPAIGNS, "all"], metavar="CAMPAIGN")
    parser.add_argument(
        "--n", type=int, help="how many faults, images or stories; default: see docs/reliability.md"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--work", help="folder for temporary files; one on a RAM disk is faster")
    options = parser.parse_args()
    results = []
    for name in CAMPAIGNS if "all" in options.campaigns else options.campaigns:
        with tempfile.TemporaryDirectory(dir=options.work) as work:
            order = Order(limit=options.n, seed=options.seed)
            results.append(timed(CAMPAIGNS[name][1], Path(work).resolve(), order))
        print(results[-1], flush=True)
    if options.json is not None:
        document = {"seed": options.seed, "campaigns": [vars(result) for result in results]}
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 1 if any(result.violations for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
