"""``segment_anything``, and every module of it, as names of ours, for third-party code that imports them."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

OURS = "sam_engine"
THEIRS = "segment_anything"
MODULES = (
    "",
    ".automatic_mask_generator",
    ".build_sam",
    ".modeling",
    ".modeling.common",
    ".modeling.image_encoder",
    ".modeling.mask_decoder",
    ".modeling.prompt_encoder",
    ".modeling.sam",
    ".modeling.transformer",
    ".predictor",
    ".utils",
    ".utils.amg",
    ".utils.onnx",
    ".utils.transforms",
)
"""All of ``segment_anything`` 1.0, by what follows the name of the package."""


def install_as_segment_anything() -> None:
    """Let ``import segment_anything``, and of any module of it, give the modules of `sam_engine` from now on.

    They are the same objects under both names, so that there is one class of each kind. To call it again
    changes nothing.

    Raises:
        ImportError: The original is already imported: code that holds its classes would not meet ours.
    """
    loaded = [name for name in sys.modules if name == THEIRS or name.startswith(f"{THEIRS}.")]
    for name in loaded:
        if sys.modules[name] is not sys.modules.get(OURS + name.removeprefix(THEIRS)):
            raise ImportError(
                f"{name} is already imported, from {getattr(sys.modules[name], '__file__', None)}: call "
                "install_as_segment_anything() before anything imports segment_anything"
            )
    for rest in MODULES:
        sys.modules[THEIRS + rest] = import_module(OURS + rest)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds further modules of ours, which would else be loaded a second time under the other name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where a module of ``segment_anything`` is to be had; None if it is none, or not there."""
        if not fullname.startswith(f"{THEIRS}."):
            return None
        try:
            module = import_module(OURS + fullname.removeprefix(THEIRS))
        except ModuleNotFoundError:
            return None
        return ModuleSpec(fullname, _Loader(module))


class _Loader(Loader):
    """Hands out a module that is loaded already."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return it."""
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        """Give it its own description back, which the import has replaced."""
        module.__spec__ = self.spec
