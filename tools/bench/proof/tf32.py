"""F: products are rounded to TF32 where that is asked for and nowhere else, whatever the caller had set."""

import json
import subprocess
import sys
from functools import partial

from .ledger import Finding, Step
from .subjects import Subjects

STARTS = {
    "untouched": "",
    "set_float32_matmul_precision('medium')": "torch.set_float32_matmul_precision('medium')",
    "everything tf32": "b.fp32_precision = 'tf32'",
    "matmul tf32": "b.cuda.matmul.fp32_precision = 'tf32'",
}
"""Each in a process of its own: torch's settings cannot all be unset again."""

PROGRAM = """
import importlib, json, os, sys
import torch
from torch.nn import functional as F
device, starts, package = json.loads(sys.argv[1])
importlib.import_module(package + ".stand_ins").install()
from sam_engine.modeling.precision import cuda_tf32
b, device = torch.backends, torch.device(device)
torch.set_num_threads(1)
def read(get):
    try:
        return str(get())
    except RuntimeError as error:
        return "refused" if "mix of the legacy and new" in str(error) else repr(error)
def settings():
    return [
        read(lambda: b.cuda.matmul.fp32_precision),
        read(lambda: b.cudnn.conv.fp32_precision),
        read(torch.get_float32_matmul_precision),
        read(lambda: b.cuda.matmul.allow_tf32),
    ]
def apart():
    x = torch.randn(512, 512, device=device)
    image, kernel = torch.randn(1, 64, 64, 64, device=device), torch.randn(64, 64, 3, 3, device=device)
    bias = torch.randn(512, device=device)
    pairs = [
        (x @ x, x.double() @ x.double()),
        (F.linear(x, x, bias), F.linear(x.double(), x.double(), bias.double())),
        (F.conv2d(image, kernel), F.conv2d(image.double(), kernel.double())),
    ]
    return [float((a - b).abs().max() / b.abs().max()) for a, b in pairs]
for name, start in starts.items():
    if os.fork() == 0:
        exec(start)
        before = settings()
        found = {}
        for allowed in (False, True):
            with cuda_tf32(device, allowed):
                found[str(allowed)] = apart()
        print(json.dumps([name, {"apart": found, "before": before, "after": settings()}]), flush=True)
        os._exit(0)
    os.wait()
"""
EXACT, ROUNDED = 1e-5, 2e-5
"""Float32's differences from float64 are below the one, TF32's above the other, relative to the largest."""


def steps(subjects: Subjects) -> list[Step]:
    """Return the steps of the letter."""
    return [Step(letter="F", name="products and convolutions", work=partial(multiply, subjects))]


def multiply(subjects: Subjects, found: Finding) -> None:
    """Multiply and convolve with and without rounding, in processes that have set something else before."""
    given = json.dumps([str(subjects.device), STARTS, __package__])
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", PROGRAM, given], capture_output=True, text=True, check=False
    )
    told = dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))
    for name in STARTS:
        if name not in told:
            found.hold(f"{name}: {done.stderr[-500:]}", False)
            continue
        exact, rounded = told[name]["apart"]["False"], told[name]["apart"]["True"]
        found.facts[name] = f"float32 {max(exact):.2g} apart, tf32 {min(rounded):.2g}"
        found.hold(f"{name}: float32 is not rounded", max(exact) < EXACT)
        found.hold(f"{name}: tf32 is rounded", not subjects.is_cuda or min(rounded) > ROUNDED)
        is_same = told[name]["before"] == told[name]["after"]
        found.hold(f"{name}: the caller's settings are as they were", is_same)
