"""Compiled functions."""

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sam_engine.compute.compiled import compiled


def test_a_function_is_compiled_where_nothing_can_be_kept():
    """One without a file, beside which numba would keep it, as in a place that cannot be written to."""
    namespace: dict = {}
    exec("def double(x):\n    return 2 * x", namespace)

    assert compiled(namespace["double"])(3) == 6


def load_double(folder: Path) -> Callable[[int], int]:
    """Import a module with a compiled function, as a new process would."""
    path = folder / "doubled.py"
    path.write_text(
        "from sam_engine.compute.compiled import compiled\n@compiled\ndef double(x):\n    return 2 * x\n"
    )
    os.utime(path, (0, 0))  # what is kept is of this version
    spec = importlib.util.spec_from_file_location("doubled", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["doubled"] = module
    spec.loader.exec_module(module)
    return module.double


def kept_files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "__pycache__").iterdir() if path.suffix in (".nbi", ".nbc"))


def test_what_was_compiled_is_kept(tmp_path: Path):
    """A second process finds an index and the machine code beside the module."""
    assert load_double(tmp_path)(3) == 6
    again = load_double(tmp_path)
    assert again(3) == 6

    assert len(kept_files(tmp_path)) == 2
    assert again.stats.cache_hits.total() == 1


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_a_torn_file_is_replaced(suffix: str, tmp_path: Path):
    """What power loss cut off is compiled and kept once more."""
    load_double(tmp_path)(3)
    for path in kept_files(tmp_path):
        if path.suffix == suffix:
            path.write_bytes(path.read_bytes()[:1])

    assert load_double(tmp_path)(3) == 6
    assert all(path.stat().st_size > 1 for path in kept_files(tmp_path))
    third = load_double(tmp_path)
    assert third(3) == 6
    assert third.stats.cache_hits.total() == 1


def test_a_full_disk_does_no_harm(tmp_path: Path):
    """Where what was compiled cannot be written, it is used all the same."""
    double = load_double(tmp_path)
    (tmp_path / "__pycache__").rename(tmp_path / "away")
    (tmp_path / "__pycache__").touch()

    assert double(3) == 6
