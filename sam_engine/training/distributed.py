"""Training in several processes, on Ray Train. The only module of training that knows Ray.

Ray Train starts the processes, connects them by torch's process group, and starts all of them again if one
dies. What they do is `process.train_in_process`; they resume from the run's own checkpoints.
"""

import dataclasses
import logging
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sam_engine.cluster.ray_session import ray_session
from sam_engine.config import ExecutorConfig
from sam_engine.errors import ConfigError, SamEngineError
from sam_engine.settings.checks import settings_from
from sam_engine.storage.place import absolute
from sam_engine.training.config import DataConfig, TrainConfig
from sam_engine.training.process import train_in_process
from sam_engine.training.ranks import Ranks
from sam_engine.training.signals import stop_requests

log = logging.getLogger(__name__)

STOP = "stop"
"""File in the output that asks the processes of a run to save and stop: signals do not reach them."""
STOPPED = "stopped"
"""File in the output that says that they did."""


def train_on_ray(config: TrainConfig) -> int | None:
    """Train in ``config.num_workers`` processes; return the signal that stopped them, if one did.

    Raises:
        ConfigError: Ray Train is not installed, or Ray does not answer.
        SamEngineError: The processes died more often than ``config.max_restarts``.
    """
    config = with_absolute_paths(config)
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    for name in (STOP, STOPPED):
        (output / name).unlink(missing_ok=True)
    executor = ExecutorConfig(
        num_workers=config.num_workers, threads_per_worker=config.threads, address=config.address
    )
    with ray_session(executor):
        trainer = _trainer(config)
        with stop_requests((output / STOP).touch) as signals:
            result = trainer.fit()
        if result.error is not None:
            raise SamEngineError(f"training failed {config.max_restarts + 1} times: {result.error}")
    (output / STOP).unlink(missing_ok=True)
    if not (output / STOPPED).exists():
        return None
    (output / STOPPED).unlink()
    return signals[0] if signals else int(signal.SIGTERM)


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """Return the settings for processes that work in another directory."""

    def absolute(section: DataConfig | TrainConfig, names: Sequence[str]) -> dict[str, Any]:
        return {name: _absolute(getattr(section, name)) for name in names}

    data = absolute(config.data, ("sources", "region_sources", "images", "sources_csv", "packed"))
    own = absolute(config, ("output", "init_trunk", "init_checkpoint", "held_out", "held_out_packed"))
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **data), **own)


def _absolute(path: str | list[Any] | None) -> str | list[Any] | None:
    """Return an absolute path or a URL, or all of a list."""
    if isinstance(path, list):
        return [_absolute(one) for one in path]
    return None if path is None else absolute(path)


def _trainer(config: TrainConfig) -> Any:
    """Return Ray's trainer. Any, because Ray's annotations lag behind its interface."""
    try:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise ConfigError(
            f"num_workers={config.num_workers} needs Ray Train ({error}): pip install 'ray[train]'"
        ) from error
    use_gpu = config.device.startswith("cuda")
    return TorchTrainer(
        _train_worker,
        train_loop_config=dataclasses.asdict(config),
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=config.num_workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": config.threads} | ({"GPU": 1} if use_gpu else {}),
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=config.output,
            failure_config=FailureConfig(max_failures=config.max_restarts),
        ),
    )


def _train_worker(settings: dict[str, Any]) -> None:
    """Train as one of the processes."""
    import ray.train
    import ray.train.torch

    config = settings_from(TrainConfig, settings)
    context = ray.train.get_context()
    ranks = Ranks(context.get_world_rank(), context.get_world_size())
    stop = Path(config.output) / STOP
    must_stop = stop.exists if ranks.is_first else lambda: False
    if (
        train_in_process(config, ranks, ray.train.torch.get_device(), must_stop) is not None
        and ranks.is_first
    ):
        (Path(config.output) / STOPPED).touch()
