"""One call for every worker that finds room on a cluster now, machine by machine."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from sam_engine.annotation.checkup import WorkerCheck
from sam_engine.annotation.placement import Machine, place_workers
from sam_engine.cluster.ray_nodes import alive_nodes
from sam_engine.cluster.ray_session import import_ray, last_line, ray_session
from sam_engine.config import ExecutorConfig

ANSWER_S = 1800.0
"""For all workers to answer, in seconds: a model is loaded, and compiled for, meanwhile."""


def survey_on_ray(
    check_on: Callable[[str], Callable[[], WorkerCheck]], config: ExecutorConfig, device: str
) -> list[WorkerCheck]:
    """Call a check on each place of a worker, all at once; return their answers.

    Args:
        check_on: Returns what is called for a device; picklable. Asked once for each place.
        config: Where, and how many.
        device: The model's device; decides what a worker reserves.

    Raises:
        ConfigError: There is no cluster, or no GPU though one was asked for.
    """
    with ray_session(config):
        ray = import_ray()
        nodes = [node for node in alive_nodes() if not node.is_leaving]
        machines = [Machine(cpus=node.cpus, gpus=node.gpus) for node in nodes]
        waiting: dict[Any, str] = {}
        for placement in place_workers(config, device, machines):
            left = placement.num_workers
            for node, machine in zip(nodes, machines, strict=True):
                here = min(left, placement.room_on(machine, config.threads_per_worker))
                left -= here
                strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node.id, soft=False)
                call = ray.remote(_call).options(
                    num_cpus=config.threads_per_worker,
                    num_gpus=placement.gpus_per_worker,
                    max_retries=0,
                    scheduling_strategy=strategy,
                )
                waiting |= {call.remote(check_on(placement.device)): node.host for _ in range(here)}
        return list(_answers(ray, waiting))


def _call(check: Callable[[], WorkerCheck]) -> WorkerCheck:
    """Be what runs there."""
    return check()


def _answers(ray: Any, waiting: dict[Any, str]) -> Iterator[WorkerCheck]:
    """Yield what workers answer, and for those that do not, why."""
    deadline = time.monotonic() + ANSWER_S
    while waiting:
        done, _ = ray.wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
        if not done:
            yield from (WorkerCheck(host=host, problems=("it did not answer",)) for host in waiting.values())
            return
        for reference in done:
            host = waiting.pop(reference)
            try:
                yield ray.get(reference)
            except ray.exceptions.RayError as error:
                yield WorkerCheck(host=host, problems=(f"its process died: {last_line(error)}",))
