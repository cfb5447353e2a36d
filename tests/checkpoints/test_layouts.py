"""Headers of checkpoint files: containers, nestings, spellings, and what each wrong file is told."""

import json
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sam_engine.build_sam import build_architecture
from sam_engine.catalogue import ARCHITECTURES
from sam_engine.checkpoints.layouts import identify_model, original_names, read_shapes
from sam_engine.checkpoints.resolve import find_model
from sam_engine.errors import CheckpointError

HUGGING_FACE_KEYS = Path(__file__).parents[1] / "reference" / "hugging_face_sam_vit_base.txt"
"""Names and shapes of transformers 5's SamModel for facebook/sam-vit-base, one a line."""


def state_of(name: str) -> dict[str, Tensor]:
    """Return the named model's state dict, all tensors views of one zero: files of it are small."""
    with torch.device("meta"):
        shapes = build_architecture(ARCHITECTURES[name]).state_dict()
    return {key: torch.zeros(()).expand(value.shape) for key, value in shapes.items()}


def write_sparse_safetensors(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Write a safetensors file of zeros that takes no disk space."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


@pytest.fixture(scope="module")
def vit_b() -> dict[str, Tensor]:
    """The state dict of vit_b."""
    return state_of("vit_b")


@pytest.mark.parametrize("name", ["tiny", "vit_b", "vit_l", "vit_h"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_model_is_found_from_the_header(tmp_path: Path, name: str, suffix: str) -> None:
    """Every architecture is recognised in both formats."""
    state, path = state_of(name), tmp_path / f"file{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        write_sparse_safetensors(path, {key: tuple(value.shape) for key, value in state.items()})

    assert find_model(path) == name


@pytest.mark.parametrize(
    "nest",
    [
        lambda state: {"model": state, "optimizer": {"lr": 0.1}, "epoch": 3},
        lambda state: {"state_dict": state},
        lambda state: {"model_state_dict": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()},
        lambda state: {key.replace("encoder.", "encoder._orig_mod."): value for key, value in state.items()},
        lambda state: OrderedDict(state),
        lambda state: {key: torch.nn.Parameter(value) for key, value in state.items()},
    ],
)
def test_nested_and_prefixed_files_have_the_original_names(
    tmp_path: Path, vit_b: dict[str, Tensor], nest: Callable[[dict[str, Tensor]], Any]
) -> None:
    """Training code wraps state dicts in many ways; the names inside are found again."""
    torch.save(nest(vit_b), tmp_path / "nested.pth")
    shapes = read_shapes(tmp_path / "nested.pth")
    names = original_names(shapes)

    assert {names[key]: shape for key, shape in shapes.items()} == {
        key: tuple(value.shape) for key, value in vit_b.items()
    }


def test_older_format_of_torch_is_read(tmp_path: Path, vit_b: dict[str, Tensor]) -> None:
    """Files by torch before 1.6 are a row of pickles and no archive."""
    torch.save(vit_b, tmp_path / "old.pth", _use_new_zipfile_serialization=False)

    assert read_shapes(tmp_path / "old.pth") == {key: tuple(value.shape) for key, value in vit_b.items()}


def test_hugging_face_names_become_the_original_ones(vit_b: dict[str, Tensor]) -> None:
    """The 315 tensors of transformers' SamModel are the 314 of the release, one of them twice."""
    lines = HUGGING_FACE_KEYS.read_text().splitlines()
    shapes = {name: tuple(map(int, shape.split(","))) for name, shape in map(str.split, lines)}
    names = original_names(shapes)

    assert len(shapes) == 315
    assert {names[key]: shape for key, shape in shapes.items()} == {
        key: tuple(value.shape) for key, value in vit_b.items()
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html><head><title>Sign in", "a web page instead of the weights"),
        (b"\n  <html>", "a web page instead of the weights"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4665\nsize 375042383\n",
            "a Git LFS pointer instead of the weights",
        ),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), r"not a checkpoint, it begins with b'\\x89PNG"),
        (pickle.dumps({"a": 1}), "a pickle that torch.save did not write"),
        (pickle.dumps({"a": 1})[:-2], "truncated or damaged"),
        ((10**12).to_bytes(8, "little") + b"{", "damaged, its header claims 1000000000000 bytes"),
        ((10**6).to_bytes(8, "little") + b'{"a', "truncated in its header"),
        ((8).to_bytes(8, "little") + b'{"a": 1}', "damaged in its header"),
        ((2).to_bytes(8, "little") + b"{}", "holds no named tensors"),
        (b"PK\x03\x04" + bytes(100), "truncated or damaged"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    """Each common wrong file gets a message of its own, in one line that names the file."""
    path = tmp_path / "model.pth"
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match=message) as caught:
        read_shapes(path)

    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A path that does not exist is repeated."""
    with pytest.raises(CheckpointError, match=r"nowhere.pth: no such checkpoint file"):
        read_shapes(tmp_path / "nowhere.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated_file_is_refused(tmp_path: Path, suffix: str) -> None:
    """A download that broke off is noticed without reading the values."""
    path = tmp_path / f"model{suffix}"
    state = {"image_encoder.x": torch.zeros(1000)}
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    os.truncate(path, path.stat().st_size - 100)

    with pytest.raises(CheckpointError, match="truncated"):
        read_shapes(path)


class Malicious:
    """Pickles as a call of ``os.system``."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("new_format", [True, False])
def test_pickle_with_code_is_refused_and_not_run(tmp_path: Path, new_format: bool) -> None:
    """The message names the function that the file wanted to call; it was not called."""
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    tree = {"model": {"a": torch.zeros(1)}, "extra": Malicious(f"touch {trace}")}
    torch.save(tree, path, _use_new_zipfile_serialization=new_format)

    with pytest.raises(CheckpointError, match=r"holds Python code \((posix|nt)\.system\)") as caught:
        read_shapes(path)

    assert str(caught.value).startswith(f"{path}: refused")
    assert not trace.exists()


def test_pickled_model_is_refused(tmp_path: Path) -> None:
    """A file with a whole module names the class that it would need."""
    torch.save(build_architecture(ARCHITECTURES["tiny"]), tmp_path / "model.pth")

    with pytest.raises(CheckpointError, match=r"Python code \(sam_engine.modeling.sam.Sam\)"):
        read_shapes(tmp_path / "model.pth")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_torchscript_archive_is_refused(tmp_path: Path) -> None:
    """An archive of code by torch.jit is no state dict."""
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "model.pt")

    with pytest.raises(CheckpointError, match="an archive, but not of weights"):
        read_shapes(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mask_decoder.hf_token.weight", "a SAM-HQ checkpoint"),
        ("sam_mask_decoder.iou_token.weight", "a SAM 2 checkpoint"),
        ("exp_avg.image_encoder.neck.0.weight", "the state of a training run"),
    ],
)
def test_relatives_of_sam_are_told_apart(vit_b: dict[str, Tensor], name: str, message: str) -> None:
    """Checkpoints that have SAM's keys and more are refused by name."""
    shapes = {key: tuple(value.shape) for key, value in vit_b.items()} | {name: (1, 256)}

    with pytest.raises(CheckpointError, match=f"some.pth: {message}"):
        identify_model(Path("some.pth"), shapes)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"layer4.conv.weight": (1,), "fc.bias": (1,)}, "no image encoder; its tensors are fc.bias, layer4"),
        ({"image_encoder.layers.0.blocks.0.weight": (1,)}, "no plain ViT"),
        ({"image_encoder.pos_embed": (1, 64, 64, 384)}, "a ViT of 0 blocks of 384 channels"),
    ],
)
def test_other_networks_are_described(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    """A checkpoint of something else is told by what it holds."""
    with pytest.raises(CheckpointError, match=message):
        identify_model(Path("some.pth"), shapes)


def test_headers_are_read_without_torch() -> None:
    """A driver checks a checkpoint without the seconds that importing torch takes."""
    code = "import sys, sam_engine.checkpoints.resolve; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
