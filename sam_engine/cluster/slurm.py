"""Slurm: an array of independent drivers, each with its part of the shards; or one, and a Ray over nodes."""

import os
import shlex
import subprocess

from sam_engine.cluster.launch_config import Launch
from sam_engine.errors import LaunchError

_SCRIPT = """\
#!/bin/bash
{options}

# A driver that is asked to stop publishes nothing half; started again, it goes on from there.
cd {directory} || exit 1
{before}driver= signalled= again=
stop() {{
    signalled=yes
    [ -n "$driver" ] && kill -TERM "$driver"
}}
trap 'again=yes; stop' USR1 # the time limit is near
trap stop TERM              # cancelled, or pre-empted

{command} &
driver=$!
wait "$driver"
code=$?
while [ -n "$signalled" ]; do
    signalled= # a signal ends the wait, not the driver
    wait "$driver"
    code=$?
done
if [ -n "$again" ] && [ "$code" -ne 0 ]; then
    scontrol requeue "$SLURM_JOB_ID"
    sleep 30 # until Slurm ends this script; should it not, nothing is lost
fi
exit "$code"
"""

_RAY = """\
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000)) # Ray's own are below
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
"""
"""A token of the job's own: srun hands the environment on."""


def render(launch: Launch) -> str:
    """Return the script for ``sbatch``."""
    config = launch.config
    options = [
        f"--job-name={launch.id}",
        f"--output={launch.id}-%A_%a.log" if config.parts > 1 else f"--output={launch.id}-%j.log",
        "--open-mode=append",
        f"--cpus-per-task={config.cpus}",
        f"--mem={config.memory_gb}G",
        f"--time={config.time_limit_min}",
        f"--signal=B:USR1@{config.stop_before_s}",
        "--requeue",
    ]
    if config.parts > 1:
        options.append(f"--array=0-{config.parts - 1}")
    if config.nodes > 1:
        # `ray symmetric-run` ends with `ray stop`, which stops every Ray of the machine.
        options += [f"--nodes={config.nodes}", "--ntasks-per-node=1", "--exclusive"]
    if config.gpus:
        options.append(f"--gres=gpu:{config.gpus}")
    return _SCRIPT.format(
        options="\n".join(f"#SBATCH {option}" for option in [*options, *config.options]),
        directory=shlex.quote(config.directory or launch.directory),
        before=_before_ray(config.python) if config.nodes > 1 else "",
        command=_on_ray(launch) if config.nodes > 1 else launch.command_of_part("SLURM_ARRAY_TASK_ID"),
    )


def _before_ray(python: str) -> str:
    """Return what comes before `_on_ray`, which looks for ``ray`` in PATH: beside the interpreter."""
    folder = os.path.dirname(python)
    return _RAY + (f'export PATH={shlex.quote(folder)}:"$PATH"\n' if folder else "")


def _on_ray(launch: Launch) -> str:
    """Return what runs the driver on the first node, and Ray on all of them until it ends."""
    config = launch.config
    return (
        f"srun --ntasks={config.nodes} ray symmetric-run "
        f'--address "$head:$port" --min-nodes {config.nodes} '
        f"--num-cpus={config.cpus} --num-gpus={config.gpus} -- {launch.command}"
    )


def submit(script: str) -> str:
    """Hand a script to ``sbatch``; return the job's id.

    Raises:
        LaunchError: There is no sbatch here, or it refuses.
    """
    return run_client(["sbatch", "--parsable"], script).strip()


def run_client(command: list[str], text: str) -> str:
    """Give a text to a cluster's own client on stdin; return what that prints.

    Raises:
        LaunchError: It is not installed, or ends with a failure.
    """
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError as error:
        raise LaunchError(
            f"{command[0]} is not installed here; launch.dry_run=true prints what to give to "
            f"`{' '.join(command)}` where it is"
        ) from error
    if done.returncode:
        says = " ".join((done.stderr or done.stdout).split())
        raise LaunchError(f"{' '.join(command)} ended with {done.returncode}: {says}")
    return done.stdout
