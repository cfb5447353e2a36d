"""A Ray cluster of several nodes on this machine, hosted by a process of its own.

Its process reads a word per line and answers with one: ``add`` starts a node, ``kill`` sends SIGKILL to the
raylet of the oldest. The campaign that gives the words stays free of Ray, and of threads.
"""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

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

    def add(self) -> None:
        """Start a node for one worker."""
        self._ask("add")

    def kill(self) -> None:
        """Kill the raylet of the oldest node that works."""
        self._ask("kill")

    def _ask(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"the host of the Ray nodes ended with {self._process.wait()}")
        return line


@contextlib.contextmanager
def ray_nodes(folder: Path, environment: Mapping[str, str]) -> Iterator[Nodes]:
    """Host a head without workers and two nodes for one worker each; end them with the block.

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
            yield Nodes(process)
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

    settings = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(
        initialize_head=True, head_node_args={**settings, "num_cpus": 0, "temp_dir": private_folder()}
    )
    nodes = [cluster.add_node(num_cpus=1, **settings) for _ in range(2)]
    answers.write(f"{cluster.address}\n")
    for word in sys.stdin:
        if word.strip() == "add":
            nodes.append(cluster.add_node(num_cpus=1, **settings))
        else:
            node = nodes.pop(0)
            os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
            cluster.remove_node(node, allow_graceful=False)
        answers.write("done\n")
    cluster.shutdown()


if __name__ == "__main__":
    _host()
