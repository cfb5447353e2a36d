"""``segment_anything.utils.transforms``."""

from sam_engine.ops.resize import ResizeLongestSide

__all__ = ["ResizeLongestSide"]
