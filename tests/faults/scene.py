"""A place for experiments: photos, an output folder, what an undisturbed run makes of them, and victims.

A victim is a fork of this process, which has everything loaded: one costs a fifth of a second, not ten. For
that, this process itself must stay without threads.
"""

import contextlib
import functools
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

import pipelines.config
from pipelines.auto_annotate import COMMAND, run
from sam_engine.amg.mask_finder import MaskFinder
from sam_engine.annotation.report import REPORT
from sam_engine.annotation.worker import ShardAnnotator
from sam_engine.annotation.worker_speeds import WORKERS_PREFIX
from sam_engine.config import AmgConfig, AutoAnnotateConfig
from sam_engine.dataset.reader import open_dataset
from sam_engine.dataset.schema import ANNOTATIONS_PREFIX, SUCCESS
from sam_engine.dataset.verify import verify_dataset
from sam_engine.storage.local import LOCK
from sam_engine.storage.store import TEMPORARY
from tests.helpers import fakes

CRASHED = 70
"""Exit code of a victim that ended by an exception that is none of ours."""

HANGS_AFTER_S = 120
"""A victim that takes longer is ended by SIGALRM, which no promise allows."""

Plant = Callable[[], None]
"""Called in the victim before it runs: where faults and bugs are put in."""

fast_model = functools.partial(fakes.DiscSegmenter, (8.0, 10.0, 12.0), 64)
"""Annotates an image in two milliseconds."""
other_model = functools.partial(fakes.DiscSegmenter, (7.0, 9.0, 11.0), 64)
"""Finds other masks."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A folder with ``photos``, ``out`` and a log, and the files that every run must end with."""

    root: Path
    config: AutoAnnotateConfig
    reference: Mapping[str, bytes]
    """Every file of a finished output but the lock and the report, which holds times; by name."""

    @property
    def output(self) -> Path:
        """Where runs write."""
        return self.root / "out"

    @property
    def log(self) -> Path:
        """What victims print."""
        return self.root / "log.txt"

    def clear(self) -> None:
        """Start from nothing."""
        shutil.rmtree(self.output, ignore_errors=True)
        self.log.unlink(missing_ok=True)

    def start(self, plant: Plant | None = None, *, model: Callable[[], object] = fast_model) -> int:
        """Start a run in a process of its own; return its id."""
        _load_compiled_loops()
        pid = os.fork()
        if pid == 0:
            _be_victim(self, plant, model)
        return pid

    def run(self, plant: Plant | None = None, *, model: Callable[[], object] = fast_model) -> int:
        """Run to the end; return the exit code, or minus the signal that ended it."""
        return wait(self.start(plant, model=model))

    def files(self) -> dict[str, bytes]:
        """Return what readers can see: everything but temporaries, the lock and the report."""
        return read_files(self.output)

    def temporaries(self) -> list[str]:
        """Return what writers have left behind."""
        folder = self.output / TEMPORARY
        return sorted(os.listdir(folder)) if folder.is_dir() else []

    def visible_problems(self) -> list[str]:
        """Return what is wrong with what readers can see now, at whatever moment it is."""
        problems = state_problems(self.files(), self.reference)
        if report := self.report():
            try:
                json.loads(report)
            except ValueError as error:
                problems.append(f"{REPORT} is no JSON: {error}")
        return problems

    def report(self) -> bytes | None:
        """Return the report, if there is one."""
        path = self.output / REPORT
        return path.read_bytes() if path.exists() else None

    def final_problems(self) -> list[str]:
        """Return how the output differs from that of an undisturbed run."""
        problems = difference(self.files(), self.reference)
        return problems + [f"{name} was left behind" for name in self.temporaries()]


def make_scene(root: Path, *, num_images: int = 16, shard_size: int = 2, plant: Plant | None = None) -> Scene:
    """Write photos, two of them broken, and run once undisturbed; its output is verified and remembered."""
    pa.array([b""]).to_pylist()  # imports what pyarrow imports on first use
    for number in range(num_images):
        fakes.write_image(root / "photos" / f"{number:03d}.png", size=(12 + number % 3, 16))
    (root / "photos" / "003.png").write_bytes(b"<html>404</html>")
    (root / "photos" / "004.png").write_bytes((root / "photos" / "005.png").read_bytes()[:60])
    config = fakes.run_settings(
        input=str(root / "photos"),
        output=str(root / "out"),
        shard_size=shard_size,
        max_failed_fraction=1.0,
        previews=1,
        amg__points_per_side=1,
    )
    blank = Scene(root=root, config=config, reference={})
    references = []
    for _ in range(2):
        blank.clear()
        code = blank.run(plant)
        if code:
            raise RuntimeError(f"the undisturbed run ended with {code}:\n{blank.log.read_text()}")
        references.append(blank.files())
    if plant is None and (problems := verify_dataset(open_dataset(blank.output)).problems):
        raise RuntimeError("the undisturbed run is not sound:\n" + "\n".join(problems))
    if differences := difference(*references):
        raise RuntimeError("two undisturbed runs differ:\n" + "\n".join(differences))
    return replace(blank, reference=references[0])


def state_problems(files: Mapping[str, bytes], reference: Mapping[str, bytes]) -> list[str]:
    """Return what is wrong with the files of an output that may be unfinished.

    Each must be whole and the one that an undisturbed run makes, which rules out torn, doubled and misplaced
    shards; a dataset that calls itself finished must be.
    """
    problems = [f"{name} should not be there" for name in files.keys() - reference.keys()]
    problems += [
        f"{name} has {len(data)} bytes, and not the {len(reference[name])} that it should have"
        for name, data in files.items()
        if name in reference and data != reference[name]
    ]
    if SUCCESS in files:
        shards = {name for name in reference if name.startswith(ANNOTATIONS_PREFIX)}
        problems += [f"{SUCCESS} is there, but {name} is not" for name in shards - files.keys()]
    return sorted(problems)


def difference(files: Mapping[str, bytes], reference: Mapping[str, bytes]) -> list[str]:
    """Return how two outputs differ."""
    missing = [f"{name} is missing" for name in sorted(reference.keys() - files.keys())]
    return state_problems(files, reference) + missing


def read_files(output: Path) -> dict[str, bytes]:
    """Return the files of an output by name, without temporaries, locks and what holds times."""
    files = {}
    for path in output.glob("**/*"):
        name = path.relative_to(output).as_posix()
        if path.is_file() and name != REPORT and not name.startswith((LOCK, TEMPORARY, WORKERS_PREFIX)):
            files[name] = path.read_bytes()
    return files


def wait(pid: int) -> int:
    """Wait for a victim; return its exit code, or minus its signal."""
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def kill(pid: int) -> int:
    """Send SIGKILL; return how the victim ended, which may have been before."""
    os.kill(pid, signal.SIGKILL)
    return wait(pid)


@functools.cache
def _load_compiled_loops() -> None:
    """Find masks once here, and not first in every victim: numba loads its loops in 0.7 seconds."""
    torch.set_num_threads(1)
    image = np.zeros((12, 16, 3), dtype=np.uint8)
    assert MaskFinder(fast_model(), AmgConfig(points_per_side=1)).find(image)


def _be_victim(scene: Scene, plant: Plant | None, model: Callable[[], object]) -> None:
    """Run the program and end the process as it would end."""
    code = CRASHED
    signal.alarm(HANGS_AFTER_S)
    try:
        log = os.open(scene.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
        torch.set_num_threads(1)
        pipelines.config.load = lambda *_: scene.config  # Hydra's part costs more than the rest
        # Threads that read ahead change nothing on disk, and on a busy machine cost most of the time.
        ShardAnnotator._load_ahead = ShardAnnotator._load_one_by_one  # type: ignore[method-assign]
        if plant is not None:
            plant()
        code = pipelines.config.main(COMMAND, functools.partial(run, make_model=model), [])
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001  nothing may escape into the parent's code
        with contextlib.suppress(OSError):
            traceback.print_exc()
    finally:
        os._exit(code)
