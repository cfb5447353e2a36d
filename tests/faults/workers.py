"""python -m tests.faults.workers: kill workers, nodes and runs, look for leaks; exit 1 if a promise broke."""

import functools
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:  # pipelines and tools
    sys.path.append(ROOT)

from .command import Campaign, run_command  # noqa: E402
from .machine import run_machine  # noqa: E402
from .ray_kills import run_ray, run_ray_session  # noqa: E402
from .signals import run_signals  # noqa: E402
from .soak import run_soak  # noqa: E402

CAMPAIGNS: Mapping[str, tuple[str, Campaign]] = {
    "machine": ("a user and an adversary, as a Hypothesis state machine", run_machine),
    "ray": ("SIGKILL of Ray's workers, nodes and drivers at random moments", run_ray),
    "raynoise": (
        "the same, while Ray's event loops are slowed down at random", functools.partial(run_ray, noise=True)
    ),
    "raysession": ("SIGKILL of the raylet and the GCS of a driver's own Ray", run_ray_session),
    "sigray": (
        "SIGINT and SIGTERM at every phase of a run with Ray", functools.partial(run_signals, executor="ray")
    ),
    "siginline": (
        "the same in one process", functools.partial(run_signals, executor="inline")
    ),
    "soak": ("many images in one process: memory, descriptors and processes stay flat", run_soak),
    "soakisolated": ("the same with decode.isolate=true", functools.partial(run_soak, isolate=True)),
    "soaktiny": ("the same with the bundled model", functools.partial(run_soak, tiny=True)),
}  # fmt: skip


def main() -> int:
    """Run the campaigns asked for; print a line for each."""
    return run_command(
        "python -m tests.faults.workers",
        __doc__,
        CAMPAIGNS,
        n_help="how many faults, images or stories; default: see docs/reliability.md",
    )


if __name__ == "__main__":
    sys.exit(main())
