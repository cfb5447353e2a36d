"""A Ray cluster of several nodes on this machine, hosted by a process of its own.

Its process reads an order per line and answers with a word: ``add CPUS GPUS`` starts a node, with a third
number one on which no model works (see `fakes.make_troubled_segmenter`), ``kill N`` sends
SIGKILL to the raylet of the N-th that there is, ``drain N`` says that it will be pre-empted. The campaign
that gives the orders stays free of Ray, and of threads.
"""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PYTHONPATH = str(Path(__file__).resolve().parents[2])
"""Of workers: the program and the fakes."""


class Nodes:
    """The cluster, seen from the process that asked for it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Wait until the cluster is there."""
        self._process = process
        self.address = self._answer()

    @property
    def pid(self) -> int:
        """Of the host: all raylets and workers are its children."""
        return self._process.pid

    def add(self, cpus: int = 1, gpus: int = 0, *, is_sick: bool = False) -> None:
        """Start a node. GPUs are counted, not there."""
        self._ask(f"add {cpus} {gpus}" + " 1" * is_sick)

    def kill(self, number: int = 0) -> None:
        """Kill the raylet of a node that works, by default the oldest."""
        self._ask(f"kill {number}")

    def drain(self, number: int) -> None:
        """Say that a node will be pre-empted; it works as before."""
        self._ask(f"drain {number}")

    def _ask(self, order: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{order}\n")
        self._process.stdin.flush()
        self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"the host of the Ray nodes ended with {self._process.wait()}")
        return line


@contextlib.contextmanager
def ray_nodes(
    folder: Path, environment: Mapping[str, str], machines: Sequence[tuple[int, int]] = ((1, 0), (1, 0))
) -> Iterator[Nodes]:
    """Host a head without workers and nodes of so many CPUs and GPUs; end them with the block.

    Sets what this process, as a driver's parent, needs to be let in.
    """
    token = folder / "ray-token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": PYTHONPATH,
        **environment,
    }
    with (folder / "nodes.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.ray_nodes"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, process_group=0,
        )  # fmt: skip
        try:
            nodes = Nodes(process)
            for cpus, gpus in machines:
                nodes.add(cpus, gpus)
            yield nodes
        finally:
            process.stdin.close()  # type: ignore[union-attr]
            try:
                process.wait(timeout=60)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def _host() -> None:
    """Be the process that hosts the nodes, until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # Ray prints
    from ray.cluster_utils import Cluster

    from sam_engine.cluster.ray_session import private_folder

    Path("/tmp/ray").mkdir(exist_ok=True)  # where Ray notes the address, whatever its folder is
    settings = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(
        initialize_head=True, head_node_args={**settings, "num_cpus": 0, "temp_dir": private_folder()}
    )
    nodes: list[Any] = []
    answers.write(f"{cluster.address}\n")
    for line in sys.stdin:
        order, *numbers = line.split()
        first, *rest = map(int, numbers)
        if order == "add":
            sick = {"env_vars": {"SICK": "1"}} if len(rest) > 1 else {}
            nodes.append(cluster.add_node(num_cpus=first, num_gpus=rest[0], **settings, **sick))
        elif order == "drain":
            _drain(cluster.address, nodes[first].node_id)
        else:
            node = nodes.pop(first)
            os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
            cluster.remove_node(node, allow_graceful=False)
        answers.write("done\n")
    cluster.shutdown()


def _drain(address: str, node_id: str) -> None:
    """Do what an autoscaler does that has heard of a pre-emption."""
    import ray
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, why = ray._raylet.GcsClient(address=address).drain_node(
        node_id, reason, "pre-empted", int((time.time() + 60) * 1000)
    )
    assert accepted, why


if __name__ == "__main__":
    _host()
