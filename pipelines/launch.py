"""Run a program on a cluster: ``python -m pipelines.launch launch=slurm launch.parts=8 input=photos``."""

if __name__ == "__main__":  # first: what follows takes seconds, and Ctrl-C meanwhile is one line, too
    from sam_engine.compute.signals import quit_at_once

    quit_at_once()

import dataclasses
import functools
import hashlib
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from sam_engine.cluster import kubernetes, ray_job, skypilot, slurm
from sam_engine.cluster.launch_config import Launch, LaunchConfig
from sam_engine.compute.signals import leave
from sam_engine.dataset.run_info import config_yaml
from sam_engine.errors import ConfigError

from .config import CommandLine, main, read
from .logs import set_up_logging

log = logging.getLogger("pipelines.launch")  # not __name__, which is __main__ under python -m

MODULES = {"annotate": "auto_annotate", "evaluate": "evaluate", "train": "train"}
"""``launch.program`` -> module here."""


@dataclass(frozen=True, kw_only=True)
class LaunchProgramConfig:
    """The launcher's own settings; all others are the program's."""

    launch: LaunchConfig = field(default_factory=LaunchConfig)


COMMAND = CommandLine(
    name="launch",
    config_class=LaunchProgramConfig,
    plain_texts=frozenset({"launch.python", "launch.directory", "launch.address", "launch.image"}),
    help="""
Run a program on a cluster, with the settings that it has here.

Usage: python -m pipelines.launch launch=WHERE [launch.KEY=VALUE ...] [key=value ...]

  python -m pipelines.launch launch=slurm launch.parts=8 launch.gpus=1 input=/data/photos output=/data/masks
  python -m pipelines.launch launch=k8s_job launch.parts=8 launch.image=... launch.volumes=[data:/data] ...
  python -m pipelines.launch launch=ray_job launch.address=http://head:8265 input=/data/photos
  python -m pipelines.launch launch=slurm launch.parts=8 ... preflight     try the machines, and stop

Settings other than launch.* are those of the program, pipelines.auto_annotate unless launch.program= says
evaluate or train; they are checked here and read there. launch.dry_run=true prints what would be run or
submitted, and looks at neither input nor output. docs/cluster.md has a page for each cluster.
Exit codes: 0 done or submitted, 1 not taken, 2 bad setting; of local and ray_job, the program's own.
""",
)


def run(config: LaunchProgramConfig, arguments: Sequence[str] = ()) -> int:
    """Render, and unless it is a dry run, submit or run; return the exit code.

    Args:
        config: The launcher's settings.
        arguments: The program's.
    """
    where = config.launch
    program = import_module(f".{MODULES[where.program]}", __package__)
    launch = _prepare(where, program.COMMAND, list(arguments))
    if where.name == "local":
        if not where.dry_run:
            code: int = program.command_line(launch.arguments)
            return code
        text = launch.command + "\n"
    elif where.name == "slurm":
        text = slurm.render(launch)
    elif where.name == "k8s_job":
        text = kubernetes.render_job(launch)
    elif where.name == "kuberay":
        text = kubernetes.render_ray_job(launch)
    elif where.name == "skypilot":
        text = skypilot.render(launch)
    else:
        text = ray_job.render(launch)
    if where.dry_run:
        sys.stdout.write(text)
        return 0
    set_up_logging("text")
    if where.name == "ray_job":
        return ray_job.run(launch, ray_job.connect(where.address), log.info)
    if where.name == "skypilot":
        raise ConfigError(
            "launch=skypilot renders only: add launch.dry_run=true, and give the text to `sky jobs launch`"
        )
    says = slurm.submit(text) if where.name == "slurm" else kubernetes.submit(text)
    log.info("%s is submitted: %s", launch.id, says)
    return 0


def _prepare(where: LaunchConfig, command: CommandLine, arguments: list[str]) -> Launch:
    """Return what is launched: the program's settings are checked, and completed by what the launcher needs.

    Raises:
        ConfigError: A setting is wrong, or contradicts the launcher.
    """
    keys = {argument.partition("=")[0] for argument in arguments}
    if taken := sorted(key for key in keys if key.startswith("partition.")):
        raise ConfigError(f"{taken[0]} is the launcher's to give; say launch.parts= instead")
    if where.is_on_ray and where.program == "annotate" and "executor.address" not in keys:
        arguments = [*arguments, "executor.address=auto"]
    program: Any = read(command, arguments)
    executor = getattr(program, "executor", None)
    if where.is_on_ray and getattr(executor, "name", None) == "inline":
        raise ConfigError(f"launch={where.name} is for workers on Ray; leave executor=inline out")
    if where.name in ("local", "slurm") and where.python == LaunchConfig().python:
        where = dataclasses.replace(where, python=sys.executable)
    words = shlex.join([where.program, *arguments]) + config_yaml(program)
    digest = hashlib.sha256(words.encode(errors="surrogateescape")).hexdigest()
    return Launch(
        id=f"{where.program}-{digest[:8]}", arguments=arguments, directory=os.getcwd(), config=where
    )


def _with_preflight(arguments: list[str]) -> list[str]:
    """Return them with what the word ``preflight`` stands for."""
    return ["preflight=only" if argument == "preflight" else argument for argument in arguments]


def _is_own(argument: str) -> bool:
    """Return whether an argument is the launcher's, not the program's."""
    key = argument.lstrip("+").partition("=")[0]
    return key == "launch" or key.startswith("launch.") or argument in ("-h", "--help")


def command_line(argv: Sequence[str] | None = None) -> int:
    """Run from a command line; return the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    rest = _with_preflight([argument for argument in arguments if not _is_own(argument)])
    return main(COMMAND, functools.partial(run, arguments=rest), list(filter(_is_own, arguments)))


if __name__ == "__main__":
    leave(command_line())
