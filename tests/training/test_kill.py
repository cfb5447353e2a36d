"""A run that was killed goes on as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sam_engine.training.config import DataConfig, TrainConfig
from sam_engine.training.data.packing import pack
from sam_engine.training.run import read_config, run_training, write_config

ABSENT = ["hydra", "omegaconf", "ray", "pycocotools", "pyarrow", "simplejpeg", "cv2", "tensorboardX"]
STEPS = 6


def start(config: Path) -> subprocess.Popen:
    """Start training in a process in which none of `ABSENT` can be imported, as on a bare machine."""
    code = f"import runpy, sys\nsys.modules.update(dict.fromkeys({ABSENT}))\n"
    code += f"sys.argv[1:] = {[str(config)]!r}\n"
    code += "runpy.run_module('sam_engine.training', run_name='__main__')"
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


def table(config: Path) -> list[list[str]]:
    """Return the rows of the log without their times."""
    return [line.split(",")[:-1] for line in (config.parent / "log.csv").read_text().splitlines()]


@pytest.mark.slow
def test_a_killed_run_has_the_losses_of_an_undisturbed_one(drawn_tar: Path, tmp_path: Path):
    """SIGKILL at a random moment, saved every step or every 0.2 s, on a bare machine: the same table."""
    seed = random.randrange(10**6)
    rng = random.Random(seed)
    data = DataConfig(sources=[str(drawn_tar)], packed=str(tmp_path / "packed.npz"), short_side=96)
    pack(data, tmp_path / "packed.npz")
    configs = []
    for name in ("whole", "killed"):
        config = TrainConfig(
            output=str(tmp_path / name),
            data=data,
            image_size=32,
            images_per_step=1,
            prompts_per_image=2,
            total_steps=STEPS,
            interactive_from_step=2,
            log_steps=1,
            threads=1,
            overlay_steps=0,
            checkpoint_minutes=rng.choice([0.0, 0.2 / 60]),
        )
        configs.append(write_config(config))
    whole, killed = configs
    assert run_training(read_config(whole, {})) == 0

    process, rows = start(killed), rng.randrange(1, STEPS - 1)
    log = killed.parent / "log.csv"
    deadline = time.monotonic() + 250
    while not log.exists() or log.read_text().count("\n") < rows + 1:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(rng.random() * 0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert run_training(read_config(killed, {})) == 0

    assert [row[0] for row in table(whole)] == ["step", *map(str, range(1, STEPS + 1))]
    assert table(killed) == table(whole), f"seed {seed}, killed after row {rows}"
