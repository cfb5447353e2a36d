"""Kubernetes: an Indexed Job of independent drivers, or a RayJob of KubeRay with one driver and its workers.

Kubernetes drops fields that it does not know without a word, so tests hold what is rendered against schemas.
"""

from importlib.metadata import version
from typing import Any

import yaml  # type: ignore[import-untyped]

from sam_engine.cluster.launch_config import Launch
from sam_engine.cluster.slurm import run_client

NEVER_AGAIN = (2, 3)
"""Exit codes that another attempt gives again: a bad setting, more images failed than allowed."""


def render_job(launch: Launch) -> str:
    """Return the manifest of an Indexed Job: a pod for each part.

    A pod that fails is started again; one that was evicted is, too, and does not count.
    """
    config = launch.config
    pod = _pod(launch, launch.command_of_part("JOB_COMPLETION_INDEX"), gpus=config.gpus)
    pod["restartPolicy"] = "Never"
    pod["terminationGracePeriodSeconds"] = config.stop_before_s
    spec = {
        "completionMode": "Indexed",
        "completions": config.parts,
        "parallelism": config.parts,
        "backoffLimitPerIndex": config.max_attempts - 1,
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": list(NEVER_AGAIN)}},
            ]
        },
        "template": {"metadata": {"labels": _labels(launch)}, "spec": pod},
    }
    return _manifest(launch, "batch/v1", "Job", spec)


def render_ray_job(launch: Launch) -> str:
    """Return the manifest of a RayJob: a head that runs the driver alone, and pods of workers.

    Each further attempt is one on a new cluster; what was published stays, so it goes on from there.
    """
    config = launch.config
    head = _pod(launch, command=None, gpus=0)
    workers = _pod(launch, command=None, gpus=config.gpus)
    spec = {
        "entrypoint": launch.command,
        "submissionMode": "K8sJobMode",
        "backoffLimit": config.max_attempts - 1,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600,
        "runtimeEnvYAML": yaml.safe_dump(
            {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(config.stop_before_s)}}
        ),
        "rayClusterSpec": {
            "rayVersion": version("ray"),
            "authOptions": {"mode": "token"},
            "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": {"spec": head}},
            "workerGroupSpecs": [
                {
                    "groupName": "workers",
                    "replicas": config.workers,
                    "minReplicas": config.workers,
                    "maxReplicas": config.workers,
                    "rayStartParams": {},
                    "template": {"spec": workers},
                }
            ],
        },
    }
    return _manifest(launch, "ray.io/v1", "RayJob", spec)


def submit(manifest: str) -> str:
    """Hand a manifest to ``kubectl apply``; return what it says.

    Raises:
        LaunchError: There is no kubectl here, or it refuses.
    """
    return run_client(["kubectl", "apply", "-f", "-"], manifest).strip()


def _manifest(launch: Launch, version: str, kind: str, spec: dict[str, Any]) -> str:
    metadata = {"name": launch.id, "namespace": launch.config.namespace, "labels": _labels(launch)}
    document = {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}
    text: str = yaml.safe_dump(document, sort_keys=False, width=10_000)
    return text


def _labels(launch: Launch) -> dict[str, str]:
    return {"app.kubernetes.io/name": "sam-engine", "app.kubernetes.io/instance": launch.id}


def _pod(launch: Launch, command: str | None, gpus: int) -> dict[str, Any]:
    """Return the spec of a pod with one container; None as command: what the operator says."""
    config = launch.config
    amounts: dict[str, str | int] = {"cpu": str(config.cpus), "memory": f"{config.memory_gb}Gi"}
    if gpus:
        amounts["nvidia.com/gpu"] = gpus
    container: dict[str, Any] = {
        "name": "driver" if command else "ray",
        "image": config.image,
        "resources": {"requests": dict(amounts), "limits": dict(amounts)},
    }
    if command:
        # Kubernetes would take $(NAME) in a path for one of its variables.
        container["command"] = ["/bin/sh", "-c", f"exec {command}".replace("$(", "$$(")]
    if config.directory:
        container["workingDir"] = config.directory
    pod: dict[str, Any] = {"containers": [container]}
    if config.volumes:
        mounts = [volume.partition(":") for volume in config.volumes]
        claims = sorted({claim for claim, _, _ in mounts})
        container["volumeMounts"] = [{"name": claim, "mountPath": path} for claim, _, path in mounts]
        pod["volumes"] = [{"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in claims]
    return pod
