"""H: after an error that breaks a CUDA context, no image is blamed and the worker has to go."""

import json
import subprocess
import sys
from functools import partial

from .ledger import Finding, Step
from .subjects import Subjects

PROGRAM = """
import importlib, json, sys
import numpy as np, torch
name, package = json.loads(sys.argv[1])
importlib.import_module(package + ".stand_ins").install()
from sam_engine.amg.mask_finder import MaskFinder
from sam_engine.amg.in_turn import InTurn
from sam_engine.build_sam import load_model
from sam_engine.compute.device import is_out_of_memory
from sam_engine.config import AmgConfig, ModelConfig
sam = load_model(ModelConfig(name="tiny", device=name))
class Breaks:
    is_broken = False
    def __getattr__(self, name):
        return getattr(sam, name)
    def encode(self, images):
        if self.is_broken and not torch.cuda.is_available():
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")
        return sam.encode(images)
    def decode(self, embedding, **prompts):
        logits, scores = sam.decode(embedding, **prompts)
        if self.is_broken:
            if not torch.cuda.is_available():
                raise torch.AcceleratorError("CUDA error: device-side assert triggered")
            logits[:1, 0, 0, 0] = logits.flatten()[torch.full((1,), 2**40, device=logits.device)]
        return logits, scores
model = Breaks()
in_turn = InTurn(MaskFinder(model, AmgConfig(points_per_side=2)))
image = np.random.default_rng(0).integers(256, size=(48, 64, 3), dtype=np.uint8)
in_turn.add(image)
model.is_broken = True
told = []
def attempt(work):
    try:
        told.append(["returned", type(work()).__name__])
    except Exception as error:
        is_memory = isinstance(error, RuntimeError) and is_out_of_memory(error)
        told.append([type(error).__name__, str(error).splitlines()[0][:200], is_memory])
attempt(lambda: in_turn.add(image))
if told[0][0] == "returned":  # the image before was done by then
    attempt(in_turn.finish)
attempt(lambda: MaskFinder(model, AmgConfig(points_per_side=1)).find(image))
print(json.dumps(told), flush=True)  # what holds memory of a broken device may abort in its destructor
"""


def steps(subjects: Subjects) -> list[Step]:
    """Return the steps of the letter."""
    return [Step(letter="H", name="an assertion on the device", work=partial(break_device, subjects))]


def break_device(subjects: Subjects, found: Finding) -> None:
    """Break a device in a process of its own, with an image before it in hand."""
    given = json.dumps([str(subjects.device), __package__])
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", PROGRAM, given], capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("[[")]
    if not lines:
        raise RuntimeError(done.stderr[-1500:])
    told = json.loads(lines[-1])
    broke, after = told[-2], told[-1]
    found.facts |= {"what befell": broke[0], "said": broke[1], "the next image": after[0]}
    found.hold(
        "no image became a row", all(one[0] not in ("returned", "ImageError") for one in (broke, after))
    )
    found.hold("it is not taken for a lack of memory", not any(one[-1] is True for one in told))
