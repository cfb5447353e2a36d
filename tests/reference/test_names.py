"""Every name of ``segment_anything`` 1.0 is here too, or stands in the table of differences in the docs.

Names are those of modules, of what they define, of methods, of parameters in their order with their defaults,
and of what instances of every class have.
"""

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from sam_engine.build_sam import build_architecture
from sam_engine.utils.install import MODULES
from tests.helpers.reference_models import SMALL
from tools.reference import build_reference

pytestmark = pytest.mark.reference

DOCS = Path(__file__).parents[2] / "docs" / "migration.md"
PRIVATE_OF_TORCH = set(vars(torch.nn.Module()))


def documented() -> set[str]:
    """The names in the first column of the table of differences."""
    section = DOCS.read_text().partition("## What is different on purpose")[2].partition("\n## ")[0]
    return {
        name for row in re.findall(r"^\| (.*?) \|", section, re.M) for name in re.findall(r"`([^`]+)`", row)
    }


def defined(module: ModuleType) -> dict[str, Any]:
    """What a module of the original defines itself; of a package, also what it offers from its modules."""
    home = module.__name__
    is_package = hasattr(module, "__path__")
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("__")
        and not inspect.ismodule(value)
        and (getattr(value, "__module__", home) == home or (is_package and value.__module__.startswith(home)))
        and getattr(value, "__module__", home) != "typing"
    }


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    """Names, kinds and defaults; defaults that are objects by their value, as far as it can be compared."""
    found = []
    for name, parameter in inspect.signature(function).parameters.items():
        default = (
            list(parameter.default) if isinstance(parameter.default, tuple | list) else parameter.default
        )
        is_rest = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        found.append(("" if is_rest else name, parameter.kind, default))
    return found


def missing_parameters(ours: Any, theirs: Any) -> bool:
    """Whether a call that the original takes is not taken, or has another meaning."""
    expected, found = parameters(theirs), parameters(ours)
    own = found[len(expected) :]
    return found[: len(expected)] != expected or any(
        default is inspect.Parameter.empty for _, _, default in own
    )


def missing_in_module(ours: ModuleType, theirs: ModuleType) -> Iterator[str]:
    """Yield the names of the original that lack, or take other parameters."""
    place = theirs.__name__.removeprefix("segment_anything").removeprefix(".")
    for name, value in defined(theirs).items():
        full = f"{place}.{name}".removeprefix(".")
        if not hasattr(ours, name):
            yield full
        elif inspect.isclass(value):
            yield from missing_in_class(full, getattr(ours, name), value)
        elif inspect.isfunction(value) and missing_parameters(getattr(ours, name), value):
            yield full


def missing_in_class(full: str, ours: type, theirs: type) -> Iterator[str]:
    """Yield the same of a class."""
    for name in vars(theirs):
        if name.startswith("__") and name not in ("__init__", "__getitem__", "__setitem__", "__delitem__"):
            continue
        if not hasattr(ours, name):
            yield f"{full}.{name}"
        elif name.startswith("__") and name != "__init__":
            continue  # only ever called by their operators
        elif callable(getattr(theirs, name)) and missing_parameters(
            getattr(ours, name), getattr(theirs, name)
        ):
            yield f"{full}.{name}"


@pytest.mark.parametrize("rest", MODULES)
def test_names_and_parameters(segment_anything: ModuleType, rest: str) -> None:
    """A module, and all that it defines."""
    theirs, ours = import_module(f"segment_anything{rest}"), import_module(f"sam_engine{rest}")

    assert set(missing_in_module(ours, theirs)) <= documented()


def test_modules(segment_anything: ModuleType) -> None:
    """All files of the original are among those that are compared."""
    root = Path(segment_anything.__file__).parent
    files = [path.relative_to(root).with_suffix("") for path in root.rglob("*.py")]

    assert {"".join(f".{part}" for part in file.parts if part != "__init__") for file in files} == set(
        MODULES
    )


def missing_attributes(full: str, ours: Any, theirs: Any) -> Iterator[str]:
    """Yield what an instance of the original has and ours has not, or of another type."""
    for name, value in vars(theirs).items():
        if name in PRIVATE_OF_TORCH or name == "_stats":
            continue
        if not hasattr(ours, name) or (
            type(value) in (int, float, bool, str) and getattr(ours, name) != value
        ):
            yield f"{full}.{name}"


def test_attributes_of_the_model(segment_anything: ModuleType) -> None:
    """Every module of the network is in its place, of the class of that name, with the same attributes."""
    theirs, ours = build_reference(segment_anything, SMALL), build_architecture(SMALL)
    missing = set()
    for name, module in theirs.named_modules():
        mine, kind = ours.get_submodule(name), type(module).__name__
        assert type(mine).__name__ == kind
        missing |= set(missing_attributes(kind, mine, module))
        assert set(dict(module.named_parameters())) == set(dict(mine.named_parameters()))

    assert missing <= documented()


def test_attributes_of_the_facades(segment_anything: ModuleType) -> None:
    """Predictor, generator, transform and ONNX model."""
    from segment_anything.utils.onnx import SamOnnxModel as ReferenceOnnxModel

    import sam_engine
    from sam_engine.utils.onnx import SamOnnxModel

    missing = set()
    pairs = []
    for package, onnx, model in (
        (sam_engine, SamOnnxModel, build_architecture(SMALL)),
        (segment_anything, ReferenceOnnxModel, build_reference(segment_anything, SMALL)),
    ):
        predictor = package.SamPredictor(model)
        generator = package.SamAutomaticMaskGenerator(model)
        fresh = package.SamPredictor(model)
        predictor.set_image(np.zeros((30, 40, 3), np.uint8))
        pairs.append([predictor, fresh, generator, predictor.transform, onnx(model, return_single_mask=True)])
    for mine, theirs in zip(*pairs, strict=True):
        missing |= set(missing_attributes(type(theirs).__name__, mine, theirs))

    assert missing <= documented()
