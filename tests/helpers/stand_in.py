"""A stand-in for an interpreter: the annotating program with a fake model, for what starts it elsewhere."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_DRIVER = """#!{python}
import functools, sys
sys.path.insert(0, {root!r})
from tests.helpers import fakes
from pipelines import auto_annotate
model = functools.partial(fakes.make_troubled_segmenter, {image_s})
auto_annotate.run = functools.partial(auto_annotate.run, make_model=model)
sys.exit(auto_annotate.command_line(sys.argv[4:]))  # after -m sam_engine annotate
"""

SETTINGS = (
    "shard_size=2", "model.checkpoint=random", "previews=0", "amg.points_per_side=2",
    "amg.points_per_batch=16", "amg.min_mask_region_area=0",
)  # fmt: skip
"""Of the program, for `fakes.run_settings` to give the same dataset."""


def executable(path: Path, text: str) -> Path:
    """Write a program; return its path."""
    path.write_text(text)
    path.chmod(0o755)
    return path


def stand_in(path: Path, image_s: float) -> Path:
    """Write it; return its path. An image takes so many seconds."""
    return executable(path, _DRIVER.format(python=sys.executable, root=str(ROOT), image_s=image_s))
