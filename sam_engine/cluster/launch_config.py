"""Where a program is run, and what is run there. Launchers render and submit it, and know nothing else."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from sam_engine.settings.checks import check_setting

LAUNCHERS = ("local", "ray_job", "slurm", "k8s_job", "kuberay", "skypilot")
OF_PARTS = ("slurm", "k8s_job", "skypilot")
"""Launchers of several drivers, each with its part of the shards."""
ON_RAY = ("ray_job", "kuberay")
"""Launchers of one driver, whose workers are a Ray cluster's."""
LAUNCHED = ("annotate", "evaluate", "train")


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """Where a program runs, with what. Settings that a launcher has no use for are ignored by it."""

    name: str = "local"
    """local, ray_job, slurm, k8s_job, kuberay or skypilot."""
    dry_run: bool = False
    """Print what would be run or submitted, and stop. Neither input nor output is looked at."""
    program: str = "annotate"
    """annotate, evaluate or train."""
    parts: int = 1
    """Drivers, each with its part of the shards: an array of slurm, an Indexed Job, nodes of skypilot."""
    nodes: int = 1
    """Nodes of slurm that are one Ray for one driver, instead of parts."""
    workers: int = 1
    """Pods of workers of kuberay."""
    python: str = "python"
    """Interpreter where it runs; with slurm usually that of an environment on a shared disk."""
    directory: str | None = None
    """Working directory where it runs. None: this one with slurm, the image's elsewhere."""
    cpus: int = 4
    """Of each driver or pod of workers."""
    memory_gb: int = 16
    """Of each driver or pod of workers, in GiB."""
    gpus: int = 0
    """Of each driver or pod of workers."""
    accelerator: str = "L4"
    """Kind of GPU that skypilot looks for."""
    time_limit_min: int = 1440
    """After so many minutes slurm stops a driver and starts it again."""
    stop_before_s: int = 120
    """So many seconds before, it is asked to stop; also what other launchers let it take to stop."""
    max_attempts: int = 3
    """A driver that ends by a failure which may pass is started so often, at most."""
    address: str = "http://127.0.0.1:8265"
    """Dashboard of the Ray cluster of ray_job."""
    image: str = "sam-engine:latest"
    """Container image of k8s_job and kuberay."""
    namespace: str = "default"
    """Of k8s_job and kuberay."""
    volumes: list[str] = field(default_factory=list)
    """CLAIM:PATH, a persistent volume claim and where pods see it; of k8s_job and kuberay."""
    options: list[str] = field(default_factory=list)
    """More lines of ``#SBATCH``, such as --account=vision."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_setting("launch.name", self.name, self.name in LAUNCHERS, f"one of {', '.join(LAUNCHERS)}")
        check_setting(
            "launch.program", self.program, self.program in LAUNCHED, f"one of {', '.join(LAUNCHED)}"
        )
        at_least = {"parts": 1, "nodes": 1, "workers": 1, "cpus": 1, "memory_gb": 1, "gpus": 0}
        at_least |= {"time_limit_min": 1, "stop_before_s": 1, "max_attempts": 1}
        for name, low in at_least.items():
            value = getattr(self, name)
            check_setting(f"launch.{name}", value, value >= low, f"at least {low}")
        is_array = self.name in OF_PARTS and self.program == "annotate"
        check_setting(
            "launch.parts",
            self.parts,
            self.parts == 1 or is_array,
            f"1, but to annotate on {', '.join(OF_PARTS)}",
        )
        is_one_ray = self.name == "slurm" and self.program == "annotate" and self.parts == 1
        check_setting(
            "launch.nodes",
            self.nodes,
            self.nodes == 1 or is_one_ray,
            "1, but to annotate on slurm in one part",
        )
        for volume in self.volumes:
            ok = re.fullmatch(r"[a-z0-9][a-z0-9.-]*:/.*", volume) is not None
            check_setting("launch.volumes", volume, ok, "CLAIM:/PATH")
        for option in self.options:
            ok = option.startswith("-") and "\n" not in option
            check_setting("launch.options", option, ok, "an option of sbatch, such as --account=vision")

    @property
    def is_on_ray(self) -> bool:
        """There is one driver, whose workers are a cluster's."""
        return self.name in ON_RAY or self.nodes > 1


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What is launched, and with which settings."""

    id: str
    """The same for the same command: lower-case letters, digits and hyphens."""
    arguments: Sequence[str]
    """Of the program, without its part."""
    directory: str
    """Where the launcher was called."""
    config: LaunchConfig

    @property
    def command(self) -> str:
        """What a shell runs there."""
        words = [self.config.python, "-m", "sam_engine", self.config.program, *self.arguments]
        return shlex.join(words)

    def command_of_part(self, index: str) -> str:
        """Return what a shell runs for a part, whose index is in the shell variable ``index``.

        How many parts there are is written out: of an array, one driver alone may be started again.
        """
        if self.config.parts == 1:
            return self.command
        return f'{self.command} partition.index="${index}" partition.count={self.config.parts}'
