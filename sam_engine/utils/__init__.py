"""The module names of ``segment_anything.utils``, for code that imports from them."""
