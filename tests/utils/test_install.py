"""``segment_anything`` as a name of ours: each case is a process of its own, as imports cannot be undone."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

THE_SAME_MODULES = """
import sam_engine
sam_engine.install_as_segment_anything()
sam_engine.install_as_segment_anything()  # changes nothing
import segment_anything
import segment_anything.modeling.sam, segment_anything.utils.onnx
import segment_anything.modeling.tiny_encoder  # which the original has not
from segment_anything.modeling import Sam, ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.image_encoder import ImageEncoderViT as Direct
from segment_anything.utils.transforms import ResizeLongestSide
from segment_anything.build_sam import build_sam_vit_b
import sam_engine.modeling.tiny_encoder, sam_engine.modeling.sam
assert segment_anything is sam_engine
assert segment_anything.modeling.sam is sam_engine.modeling.sam
assert segment_anything.modeling.tiny_encoder is sam_engine.modeling.tiny_encoder
assert segment_anything.modeling.tiny_encoder.__spec__.name == "sam_engine.modeling.tiny_encoder"
assert Direct is ImageEncoderViT is sam_engine.modeling.ImageEncoderViT
assert Sam is sam_engine.Sam
assert segment_anything.build_sam is sam_engine.build_sam
assert segment_anything.sam_model_registry["vit_b"] is build_sam_vit_b
try:
    import segment_anything.nothing
except ModuleNotFoundError as error:
    assert "segment_anything.nothing" in str(error)
else:
    raise AssertionError
"""
THE_ORIGINAL_FIRST = """
import sys, types
sys.modules["segment_anything"] = original = types.ModuleType("segment_anything")
original.__file__ = "site-packages/segment_anything/__init__.py"
import sam_engine
try:
    sam_engine.install_as_segment_anything()
except ImportError as error:
    assert "site-packages/segment_anything/__init__.py: call install_as_segment_anything() be" in str(error)
else:
    raise AssertionError
assert sys.modules["segment_anything"] is original
"""
THE_FUNCTION = """
import sam_engine.build_sam
from sam_engine.build_sam import build_sam_vit_h, load_model
from sam_engine import build_sam
assert sam_engine.build_sam is build_sam is build_sam_vit_h
"""
SUBMODULES = """
import sam_engine as segment_anything
assert segment_anything.modeling.common.LayerNorm2d
assert segment_anything.utils.amg.MaskData
assert segment_anything.utils.onnx.SamOnnxModel
assert segment_anything.predictor.SamPredictor is segment_anything.SamPredictor
assert segment_anything.automatic_mask_generator.SamAutomaticMaskGenerator
assert segment_anything.build_sam is segment_anything.build_sam_vit_h
import pickle
assert pickle.loads(pickle.dumps(segment_anything.build_sam)) is segment_anything.build_sam
"""


@pytest.mark.parametrize(
    "code",
    [THE_SAME_MODULES, THE_ORIGINAL_FIRST + THE_FUNCTION, SUBMODULES],
    ids=["the same modules", "the original first, and the function", "submodules"],
)
def test_names_of_segment_anything(code: str) -> None:
    """Every name leads to one object, or to a refusal."""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)

    assert (result.returncode, result.stderr) == (0, "")
