"""Ray jobs: the driver runs on the head of a cluster, and is submitted again until it is done.

Needs ``ray[default]`` here and there. What a driver published stays, so a further attempt goes on from there.
"""

import asyncio
import json
import os
import shlex
import sys
from collections.abc import Callable
from typing import Any

from sam_engine.cluster.launch_config import Launch
from sam_engine.errors import ConfigError, LaunchError

NEVER_AGAIN = (2, 3)
"""Exit codes that another attempt gives again: a bad setting, more images failed than allowed."""

_OVERRIDING = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")


def job_id(launch: Launch, attempt: int) -> str:
    """Return the submission id of an attempt, counted from 1: the same command never runs twice at once."""
    return f"{launch.id}-{attempt}"


def runtime_env(launch: Launch) -> dict[str, Any]:
    """Return the environment of the job: how long a driver that is stopped may take."""
    return {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(launch.config.stop_before_s)}}


def render(launch: Launch) -> str:
    """Return the command that submits the first attempt."""
    words = ["ray", "job", "submit", f"--address={launch.config.address}"]
    words += [f"--submission-id={job_id(launch, 1)}", f"--runtime-env-json={json.dumps(runtime_env(launch))}"]
    return f"{shlex.join(words)} -- {_entrypoint(launch)}\n"


def _entrypoint(launch: Launch) -> str:
    directory = launch.config.directory
    return f"cd {shlex.quote(directory)} && exec {launch.command}" if directory else launch.command


def connect(address: str) -> Any:
    """Return a client of the cluster's jobs.

    Raises:
        ConfigError: The environment names another cluster, or packages are missing.
        LaunchError: Nobody answers at the address, or the token is refused.
    """
    for name in _OVERRIDING:  # Ray would take them instead, without a word
        if os.environ.get(name, address) != address:
            raise ConfigError(f"{name} is {os.environ[name]!r} and launch.address is {address!r}; unset one")
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except ConnectionError as error:
        raise LaunchError(f"launch.address is {address!r}, where no Ray dashboard answers") from error
    except RuntimeError as error:
        if "ray[default]" in str(error):
            raise ConfigError(
                "launch=ray_job needs ray[default]: pip install 'sam-engine[cluster]'"
            ) from error
        raise LaunchError(f"{address}: {_first_line(error)}") from error
    except Exception as error:
        if "Authentication" in type(error).__name__:
            raise LaunchError(f"{address}: {_first_line(error)}; set RAY_AUTH_TOKEN") from error
        raise


def run(launch: Launch, client: Any, say: Callable[[str], object]) -> int:
    """Submit, follow the log, and submit again until the driver is done; return its exit code.

    An attempt that is running already is followed. Interrupted, the attempt is asked to stop.

    Args:
        launch: What to run.
        client: From `connect`.
        say: Told what happens, a line each.

    Raises:
        LaunchError: The cluster does not run it.
    """
    known = {each.submission_id: each for each in client.list_jobs() if each.submission_id}
    attempts_before = 0
    while (before := known.get(job_id(launch, attempts_before + 1))) is not None:
        attempts_before += 1
        if str(before.status) in ("PENDING", "RUNNING"):
            say(f"{before.submission_id} is {before.status} already: following it")
            attempts_before -= 1
            break
    code = 1
    for attempt in range(attempts_before + 1, attempts_before + launch.config.max_attempts + 1):
        id = job_id(launch, attempt)
        if id not in known:
            try:
                client.submit_job(
                    entrypoint=_entrypoint(launch), submission_id=id, runtime_env=runtime_env(launch)
                )
            except RuntimeError as error:
                raise LaunchError(f"{id} was not taken: {_first_line(error)}") from error
            say(f"{id} is submitted")
        code = _follow(client, id)
        say(f"{id} ended with {code}")
        if code == 0 or code in NEVER_AGAIN:
            break
    return code


def _follow(client: Any, id: str) -> int:
    """Print the log of a job until it ends; return the driver's exit code."""

    async def copy_log() -> None:
        async for lines in client.tail_job_logs(id):
            sys.stdout.write(lines)
            sys.stdout.flush()

    try:
        asyncio.run(copy_log())
    except BaseException:
        client.stop_job(id)
        raise
    info = client.get_job_info(id)
    if str(info.status) == "SUCCEEDED":
        return 0
    return info.driver_exit_code if info.driver_exit_code is not None else 1


def _first_line(error: Exception) -> str:
    """Return what an error says, without the traceback of another machine."""
    return str(error).strip().splitlines()[0]
