"""``segment_anything.utils.onnx``."""

from sam_engine.modeling.onnx import SamOnnxModel

__all__ = ["SamOnnxModel"]
