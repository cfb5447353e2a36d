"""How many workers a cluster holds, and of which shapes. Rules only, no Ray."""

from collections.abc import Sequence
from dataclasses import dataclass

from sam_engine.config import ExecutorConfig
from sam_engine.errors import ConfigError

RAY_UNITS = 10_000
"""Of a resource: Ray counts in these. Six times a sixth, each rounded up, would be more than one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a node offers, whoever uses it now."""

    cpus: float
    gpus: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Workers of one shape: how many, and what each reserves."""

    num_workers: int
    gpus_per_worker: float
    """All of one GPU, or a part of one: Ray gives no worker parts of two."""
    device: str
    """The model's."""

    def room_on(self, machine: Machine, threads: int) -> int:
        """Return how many of them a machine holds, with so many CPU threads each."""
        cpus = int(machine.cpus // threads)
        return min(cpus, int(machine.gpus / self.gpus_per_worker)) if self.gpus_per_worker else cpus

    @property
    def shape(self) -> tuple[float, str]:
        """What tells its workers from others."""
        return self.gpus_per_worker, self.device


def place_workers(
    config: ExecutorConfig, device: str, machines: Sequence[Machine], *, may_grow: bool = False
) -> list[Placement]:
    """Decide how many workers a cluster holds; all of them take from one queue.

    Args:
        config: ``num_workers`` is obeyed if set; workers that find no room wait, and are what an autoscaler
            goes by. ``cpu_workers`` stand beside those on GPUs.
        device: auto takes GPUs where there are some; cuda needs one; cuda:N, cpu and mps reserve none.
        machines: Of the cluster now.
        may_grow: Machines with GPUs would come if they were asked for.

    Raises:
        ConfigError: cuda without a GPU, or workers on CPUs beside those of a single kind of device.
    """
    threads = config.threads_per_worker
    gpus = sum(int(machine.gpus) for machine in machines)
    if config.cpu_workers and device != "auto":
        raise ConfigError(f"executor.cpu_workers is for model.device=auto, got {device}")
    if device == "cuda" and not (gpus or may_grow):
        raise ConfigError("model.device is cuda, but Ray finds no GPU; use model.device=auto or cpu")
    if device == "cuda" or (device == "auto" and (gpus or may_grow)):
        room = sum(int(min(machine.gpus, machine.cpus // threads)) for machine in machines)
        workers = config.num_workers or max(1, room)
        share = _share(-(-workers // gpus)) if gpus else 1.0
        placements = [Placement(num_workers=workers, gpus_per_worker=share, device=device)]
        if config.cpu_workers:
            placements.append(Placement(num_workers=config.cpu_workers, gpus_per_worker=0, device="cpu"))
        return placements
    if device not in ("auto", "cpu"):
        return [Placement(num_workers=config.num_workers or 1, gpus_per_worker=0, device=device)]
    room = sum(int(machine.cpus // threads) for machine in machines)
    workers = config.num_workers or max(1, room)
    return [Placement(num_workers=workers, gpus_per_worker=0, device=device)]


def _share(workers_per_gpu: int) -> float:
    """Return the part of a GPU that each reserves; rounded down, because Ray rounds to the nearest."""
    return RAY_UNITS // workers_per_gpu / RAY_UNITS
