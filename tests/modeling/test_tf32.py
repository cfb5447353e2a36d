"""Rounding to TF32 is chosen for our products alone: the caller's settings are the same before and after.

The settings are the process's and cannot all be unset again: each start is made in a process of its own.
Builds of torch without CUDA have them too.
"""

import json
import subprocess
import sys

import pytest
import torch

STARTS = {
    "untouched": "",
    "medium": "torch.set_float32_matmul_precision('medium')",
    "high": "torch.set_float32_matmul_precision('high')",
    "legacy": "b.cuda.matmul.allow_tf32, b.cudnn.allow_tf32 = True, False",
    "all": "b.fp32_precision = 'tf32'",
    "cuda": "b.cudnn.fp32_precision = 'ieee'",
    "matmul": "b.cuda.matmul.fp32_precision = 'tf32'",
    "conv": "b.cudnn.conv.fp32_precision = 'ieee'",
    "mixed": "b.fp32_precision = 'ieee'; b.cudnn.rnn.fp32_precision = 'tf32'",
}


PROGRAM = """
import json, os, sys
import torch
from sam_engine.modeling.precision import cuda_tf32
b = torch.backends
def read(get):
    try:
        return str(get())
    except RuntimeError as error:
        return "refused" if "mix of the legacy and new" in str(error) else repr(error)
def settings():
    return {
        "matmul": read(lambda: b.cuda.matmul.fp32_precision),
        "conv": read(lambda: b.cudnn.conv.fp32_precision),
        "rnn": read(lambda: b.cudnn.rnn.fp32_precision),
        "precision": read(torch.get_float32_matmul_precision),
        "matmul flag": read(lambda: b.cuda.matmul.allow_tf32),
        "cudnn flag": read(lambda: b.cudnn.allow_tf32),
    }
def later():
    b.fp32_precision = "ieee"
    return settings()
for name, start in json.loads(sys.argv[1]).items():
    sys.stdout.flush()
    if os.fork() == 0:
        exec(start)
        found = {"before": settings(), "inside": []}
        for allowed in (False, True):
            with cuda_tf32(torch.device("cuda"), allowed):
                found["inside"].append(settings())
            found["after"] = settings()
        found["later"] = later()
        print(json.dumps([name, found]), flush=True)
        os._exit(0)
    os.wait()
    if os.fork() == 0:
        exec(start)
        print(json.dumps([name, {"expected later": later()}]), flush=True)
        os._exit(0)
    os.wait()
"""

needs_both_interfaces = pytest.mark.skipif(
    not hasattr(torch.backends, "fp32_precision"), reason="torch has the legacy flags alone"
)


@pytest.fixture(scope="module")
def found():
    """What each start saw, by its name."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(STARTS)], capture_output=True, text=True, check=True
    )
    seen = {name: {} for name in STARTS}
    for line in done.stdout.splitlines():
        name, values = json.loads(line)
        seen[name] |= values
    return seen


@needs_both_interfaces
@pytest.mark.parametrize("start", STARTS)
def test_products_are_rounded_as_asked(found, start):
    """Within, nothing of CUDA is rounded, or everything."""
    inside = [{state[key] for key in ("matmul", "conv", "rnn")} for state in found[start]["inside"]]

    assert inside == [{"ieee"}, {"tf32"}]


@needs_both_interfaces
@pytest.mark.parametrize("start", STARTS)
def test_settings_are_the_callers_again(found, start):
    """In both interfaces, and what torch refused to say before it refuses afterwards."""
    assert found[start]["after"] == found[start]["before"]


@needs_both_interfaces
@pytest.mark.parametrize("start", STARTS)
def test_what_was_left_to_a_parent_stays_so(found, start):
    """The caller's next change of the setting for everything reaches what it would have reached."""
    assert found[start]["later"] == found[start]["expected later"]


def test_legacy_flags_alone(monkeypatch):
    """Where torch knows no other interface: set, and restored to the word."""
    from sam_engine.modeling import precision

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        restore = precision._set_legacy_flags(False)
        inside = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        restore()
        after = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before)

    assert (inside, after) == ((False, False), ("medium", True))
