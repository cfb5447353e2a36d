"""Settings of the workers."""

from dataclasses import dataclass

from sam_engine.settings.checks import check_setting, check_types

EXECUTORS = ("auto", "ray", "inline")


@dataclass(frozen=True, kw_only=True)
class ExecutorConfig:
    """Where shards are made."""

    name: str = "auto"
    """ray: a pool of worker processes. inline: this process, no Ray. auto: Ray where there is a GPU, an
    address, or enough images for several workers, else one process of its own, which an image may kill."""
    num_workers: int | None = None
    """Worker processes. None: one per GPU, or on a CPU as many as fit its cores."""
    cpu_workers: int = 0
    """Workers on CPUs beside those on GPUs, for model.device=auto on Ray. All take from one queue."""
    threads_per_worker: int = 1
    """CPU threads of the model in each worker. Part of the fingerprint, because it changes float sums."""
    decode_threads: int = 2
    """Threads in each worker that read and decode images ahead of the model."""
    address: str = "local"
    """local: start Ray on this machine. Otherwise the address of a running cluster, host:port or auto."""
    shard_timeout_s: float = 3600.0
    """A worker silent for this long is replaced, in seconds. It gives a sign of life before each image."""
    max_shard_attempts: int = 3
    """A shard that killed its worker or raised this often is given up and named."""

    def __post_init__(self) -> None:
        """Check types, then ranges."""
        check_types(self, "executor.")
        check_setting("executor.name", self.name, self.name in EXECUTORS, f"one of {', '.join(EXECUTORS)}")
        for name in ("num_workers", "threads_per_worker", "decode_threads", "max_shard_attempts"):
            value = getattr(self, name)
            if value is not None:
                check_setting(f"executor.{name}", value, value >= 1, "at least 1")
        check_setting("executor.cpu_workers", self.cpu_workers, self.cpu_workers >= 0, "at least 0")
        check_setting("executor.shard_timeout_s", self.shard_timeout_s, self.shard_timeout_s > 0, "above 0")
