"""Files that carry code: none of it runs. Each attack is shown to work on the naive way first."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from pipelines.auto_annotate import COMMAND
from pipelines.config import main
from sam_engine.checkpoints.download import file_sha256
from sam_engine.checkpoints.resolve import load_state_dict, resolve_checkpoint
from sam_engine.config import ModelConfig
from sam_engine.errors import CheckpointError
from tests.helpers.fakes import make_reduced_tiny


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def evil_files(folder: Path, marker: Path) -> list[Path]:
    """Return checkpoints that carry code in every way torch has to store a pickle."""
    tensors = {"image_encoder.a": torch.zeros(2)}
    plain, nested, legacy, raw = (folder / name for name in ("a.pth", "b.pth", "c.pth", "d.pth"))
    torch.save({**tensors, "x": Touch(marker)}, plain)
    torch.save({"model": {**tensors, "optimizer": Touch(marker)}}, nested)
    torch.save({**tensors, "x": Touch(marker)}, legacy, _use_new_zipfile_serialization=False)
    raw.write_bytes(pickle.dumps({**tensors, "x": Touch(marker)}))
    return [plain, nested, legacy, raw]


@pytest.mark.parametrize("number", range(3))
def test_the_naive_way_runs_code(tmp_path, monkeypatch, number):
    """torch.load as segment_anything calls it runs the code, once a variable says so."""
    marker = tmp_path / "was here"
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.warns(UserWarning, match="forcing weights_only=False"):
        torch.load(evil_files(tmp_path, marker)[number])

    assert marker.exists()


@pytest.mark.parametrize("force", [None, "1"])
@pytest.mark.parametrize("number", range(4))
def test_checkpoints_run_no_code(tmp_path, monkeypatch, number, force):
    """Neither looking at a checkpoint nor loading it runs what it carries, whatever the environment says."""
    marker = tmp_path / "was here"
    path = evil_files(tmp_path, marker)[number]
    if force:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", force)
    for look in (
        lambda: resolve_checkpoint(ModelConfig(checkpoint=str(path))),
        lambda: load_state_dict(path),
    ):
        with pytest.raises(CheckpointError):
            look()

    assert not marker.exists()


def test_flipped_bit_in_a_checkpoint_is_refused(tmp_path):
    """Torch takes a tampered weight without a word; with its digest pinned it is refused."""
    path = tmp_path / "tiny.safetensors"
    save_file(make_reduced_tiny().state_dict(), path)
    digest = file_sha256(path)
    data = bytearray(path.read_bytes())
    data[-7] ^= 64
    path.write_bytes(data)
    load_file(path)  # naive

    with pytest.raises(CheckpointError, match="sha256"):
        resolve_checkpoint(ModelConfig(checkpoint=str(path), sha256=digest))


def test_tensor_bomb_in_a_checkpoint_is_refused(tmp_path):
    """A view of one number as a tera of them is small until it is converted."""
    path = tmp_path / "bomb.pth"
    torch.save({"image_encoder.a": torch.zeros(1, dtype=torch.float16).expand(2**40)}, path)
    with pytest.raises(RuntimeError):
        torch.load(path, weights_only=True)["image_encoder.a"].to(torch.float32)  # naive

    with pytest.raises(CheckpointError, match=r"claims 1099511627776 values in a file of \d+ bytes"):
        load_state_dict(path)


CONFIGS = {
    "target": "_target_: pathlib.Path.touch\nself: MARKER\n",
    "nested": "points_per_side:\n  _target_: pathlib.Path\n",
    "list": "points_per_side: [{_target_: os.system, command: touch MARKER}]\n",
    "global": "# @package _global_\nhydra:\n  callbacks:\n    a:\n      _target_: pathlib.Path.touch\n",
    "environment": "points_per_side: ${oc.env:SECRET}\n",
    "default": "points_per_side: ${oc.env:NONE,${oc.env:SECRET}}\n",
    "decode": "points_per_side: ${oc.decode:${oc.env:SECRET}}\n",
    "hydra": "points_per_side: ${hydra:runtime.cwd}\n",
    "tag": "points_per_side: !!python/object/apply:os.system ['touch MARKER']\n",
}


def test_the_naive_way_instantiates_and_resolves(tmp_path, monkeypatch):
    """Hydra's instantiate calls what a file names, and OmegaConf reads the environment."""
    marker = tmp_path / "was here"
    monkeypatch.setenv("SECRET", "12345")
    instantiate({"_target_": "shutil.copyfile", "_args_": [__file__, str(marker)]})

    assert marker.exists()
    assert OmegaConf.create("a: ${oc.env:SECRET}").a == "12345"


@pytest.mark.parametrize("name", CONFIGS)
def test_shared_configurations_are_data(tmp_path, monkeypatch, capsys, name):
    """A YAML of a stranger names no code and reads no variable: one line, exit code 2, no secret in it."""
    marker = tmp_path / "was here"
    monkeypatch.setenv("SECRET", "12345")
    (tmp_path / "amg").mkdir()
    (tmp_path / "amg" / "evil.yaml").write_text(CONFIGS[name].replace("MARKER", str(marker)))
    ran = []
    code = main(COMMAND, ran.append, ["--config-dir", str(tmp_path), "amg=evil"])
    error = capsys.readouterr().err

    assert (code, ran, error.count("\n")) == (2, [], 1)
    assert "12345" not in error
    assert not marker.exists()


@pytest.mark.parametrize(
    "override",
    [
        "+amg._target_=os.system",
        "+_target_=os.system",
        "++hydra.callbacks.a._target_=os.system",
        "hydra/launcher=basic",
        "hydra.run.dir=/",
        "+hydra.searchpath=[file:///]",
        "amg.points_per_side=${oc.env:SECRET}",
        "~amg",
        "amg@hydra=tiny",
    ],
)
def test_overrides_are_data(monkeypatch, capsys, override):
    """Nor does a command line that was pasted from somewhere."""
    monkeypatch.setenv("SECRET", "12345")
    ran = []
    code = main(COMMAND, ran.append, [override])
    error = capsys.readouterr().err

    assert (code, ran, error.count("\n")) == (2, [], 1)
    assert "12345" not in error


def test_paths_are_not_resolved(monkeypatch):
    """Plain texts are taken as they are: a resolver in them stays a funny name."""
    monkeypatch.setenv("SECRET", "12345")
    ran = []
    main(COMMAND, lambda config: ran.append(config) or 0, ["input=${oc.env:SECRET}", "output=$(touch x)"])

    assert (ran[0].input, ran[0].output) == ("${oc.env:SECRET}", "$(touch x)")
    assert not os.path.exists("x")
