"""``segment_anything.utils.onnx``."""

from sam_engine.export.onnx import SamOnnxModel

__all__ = ["SamOnnxModel"]
