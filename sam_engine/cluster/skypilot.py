"""SkyPilot: a task for ``sky jobs launch``. Rendered only."""

from typing import Any

import yaml  # type: ignore[import-untyped]

from sam_engine.cluster.launch_config import Launch


def render(launch: Launch) -> str:
    """Return the task: a driver a node, on spot machines; a managed job replaces those that go."""
    config = launch.config
    resources: dict[str, Any] = {
        "cpus": f"{config.cpus}+",
        "memory": f"{config.memory_gb}+",
        "use_spot": True,
    }
    if config.gpus:
        resources["accelerators"] = f"{config.accelerator}:{config.gpus}"
    directory = f"cd {config.directory}\n" if config.directory else ""
    task = {
        "name": launch.id,
        "num_nodes": config.parts,
        "resources": resources,
        "run": f"{directory}{launch.command_of_part('SKYPILOT_NODE_RANK')}\n",
    }
    text: str = yaml.safe_dump(task, sort_keys=False, width=10_000)
    return text
