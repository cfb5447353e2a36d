"""The modules of ``segment_anything.utils``, for code that imports from them."""

from importlib import import_module
from types import ModuleType

_SUBMODULES = ("amg", "onnx", "transforms")


def __getattr__(name: str) -> ModuleType:
    """Import one of the modules when it is first used."""
    if name not in _SUBMODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")
