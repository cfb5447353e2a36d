"""A Slurm of two nodes on this machine, from Debian's packages: no systemd, no control groups.

Both nodes are daemons of this host under other names, with a core each. Everything lies in a folder of its
own and goes with the block.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

NODES = ("n1", "n2")

_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
SlurmdSpoolDir={folder}/%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
KillWait=10
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
{nodes}
PartitionName=all Nodes={names} Default=YES MaxTime=60
"""


def missing() -> str | None:
    """Return why there can be no Slurm here, if so."""
    programs = ["slurmctld", "slurmd", "sbatch", "munged"]
    absent = [name for name in programs if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed: apt-get install slurmctld slurmd slurm-client munge"
    return None if os.getuid() == 0 else "Slurm's daemons are started as root"


class Slurm:
    """What a test asks of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}

    def call(self, *command: str) -> str:
        """Run one of Slurm's programs; return what it prints."""
        environment = os.environ | self.environment
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def states(self) -> dict[str, str]:
        """Return the state of every job and task of an array that is not over, by id."""
        lines = self.call("squeue", "--noheader", "--array", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    def task(self, job: str) -> dict[str, str]:
        """Return what Slurm knows of a task."""
        words = self.call("scontrol", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)


@contextlib.contextmanager
def slurm_nodes() -> Iterator[Slurm]:
    """Start it; end it, and what runs on it, with the block."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # munge wants one that others may enter
    folder.chmod(0o711)
    (folder / "state").mkdir()
    ports = _free_ports(1 + len(NODES))
    nodes = [
        f"NodeName={name} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={port} "
        "CPUs=1 RealMemory=1024"
        for name, port in zip(NODES, ports[1:], strict=True)
    ]
    conf = _CONF.format(
        host=socket.gethostname(),
        port=ports[0],
        folder=folder,
        nodes="\n".join(nodes),
        names=",".join(NODES),
    )
    (folder / "slurm.conf").write_text(conf)
    key = folder / "munge.key"
    key.touch(mode=0o400)
    key.write_bytes(secrets.token_bytes(64))
    slurm, daemons = Slurm(folder), []
    munge = [f"--{name}={folder}/munge.{end}" for name, end in _MUNGE_FILES.items()]
    try:
        daemons.append(_start(["munged", "--foreground", *munge], folder, slurm))
        _wait_for(lambda: (folder / "munge.socket").exists(), "munged")
        daemons.append(_start(["slurmctld", "-D", "-i"], folder, slurm))
        daemons += [_start(["slurmd", "-D", "-N", name], folder, slurm) for name in NODES]
        _wait_for(lambda: _num_idle(slurm) == len(NODES), "the nodes")
        yield slurm
    finally:
        with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
            slurm.call("scancel", "--user=root")
            _wait_for(lambda: not slurm.states(), "the jobs", 30)
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in daemons:
            try:
                daemon.wait(30)
            except subprocess.TimeoutExpired:
                daemon.kill()
        shutil.rmtree(folder, ignore_errors=True)


_MUNGE_FILES = {
    "key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed",
}  # fmt: skip


def _start(command: Sequence[str], folder: Path, slurm: Slurm) -> "subprocess.Popen[bytes]":
    with (folder / f"{command[0]}-{command[-1]}.out".replace("/", "_")).open("wb") as log:
        return subprocess.Popen(
            command, env=os.environ | slurm.environment, stdout=log, stderr=log, process_group=0
        )


def _num_idle(slurm: Slurm) -> int:
    with contextlib.suppress(RuntimeError):
        return slurm.call("sinfo", "--noheader", "--Node", "--format=%T").split().count("idle")
    return 0


def _wait_for(condition, what: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"Slurm: {what} did not become ready within {timeout_s:g} s")
        time.sleep(0.2)


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(number)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]
