"""The machines of a Ray cluster: which are there, and which are about to leave."""

import contextlib
from dataclasses import dataclass

from sam_engine.cluster.ray_session import import_ray


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine that is there."""

    id: str
    host: str
    cpus: float
    gpus: float
    is_leaving: bool
    """It is being drained: what runs there goes on for a while, and nothing new is placed there."""


def alive_nodes() -> list[Node]:
    """Return the nodes that are alive."""
    ray = import_ray()
    leaving: frozenset[str] = frozenset()
    with contextlib.suppress(AttributeError):  # Ray Train's own way to ask; there is no public one
        leaving = frozenset(ray._private.state.state.get_draining_nodes() or ())
    return [
        Node(
            id=node["NodeID"],
            host=node["NodeManagerHostname"],
            cpus=node["Resources"].get("CPU", 0),
            gpus=node["Resources"].get("GPU", 0),
            is_leaving=node["NodeID"] in leaving,
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def may_grow(resource: str) -> bool:
    """Return whether the cluster's autoscaler could add machines with a resource."""
    ray = import_ray()
    with contextlib.suppress(AttributeError):
        most = ray._private.state.state.get_max_resources_from_cluster_config() or {}
        return bool(most.get(resource))
    return False
