"""Where Pillow, numba, OpenCV, safetensors or tqdm are missing: as much of them as the proof needs.

Imports nothing of ours: it comes before the library is imported. Compiled loops are not run in Python, where
they would take hours; their slow twins are taken instead.
"""

import importlib.util
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def install() -> list[str]:
    """Put stand-ins in the place of what is missing; return the names of those."""
    missing = [name for name in STAND_INS if not _is_there(name)]
    for name in missing:
        STAND_INS[name]()
    return missing


def _is_there(name: str) -> bool:
    """Return whether a package can be imported."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # ValueError: None in its place, which forbids it
        return False


def _module(name: str, **contents: Any) -> ModuleType:
    """Make a module, known by its name and as a part of its package."""
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)  # some ask whether a package is there
    vars(module).update(contents)
    sys.modules[name] = module
    package, _, part = name.rpartition(".")
    if package:
        setattr(sys.modules[package], part, module)
    return module


def _stand_in_for_pillow() -> None:
    """Images of arrays that can be resized, with torch's antialiased filter, and nothing else."""

    class Image:
        def __init__(self, pixels: NDArray[np.uint8]) -> None:
            self.pixels = pixels

        def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[np.uint8]:
            return np.asarray(self.pixels, dtype)

        def resize(self, size: tuple[int, int], *_: object) -> "Image":
            maps = torch.from_numpy(np.ascontiguousarray(self.pixels)).permute(2, 0, 1)[None].float()
            resized = F.interpolate(maps, size[::-1], mode="bilinear", antialias=True).round().clamp(0, 255)
            return Image(resized[0].permute(1, 2, 0).to(torch.uint8).numpy())

    filters = SimpleNamespace(BILINEAR=2, BICUBIC=3, BOX=4, NEAREST=0)
    _module("PIL").__path__ = []
    _module("PIL.Image", Image=Image, fromarray=Image, Resampling=filters)
    _module("PIL.ImageDraw")


def _stand_in_for_numba() -> None:
    """Functions as they are; and the slow twins of those that call them."""

    def njit(function: Any = None, **_: object) -> Any:
        return function if function is not None else lambda given: given

    _module("numba", njit=njit, prange=range).__path__ = []  # type: ignore[assignment]
    _module("numba.core").__path__ = []
    _module("numba.core.caching", FunctionCache=_NoCache)
    from sam_engine.amg import measure_cpu
    from sam_engine.modeling.fast.prepared_image import PreparedImage

    measure_cpu.geometry_for = lambda *_: None  # type: ignore[assignment]
    PreparedImage.has_loops = property(lambda _: False)  # type: ignore[assignment, method-assign]


class _NoCache:
    """In place of numba's cache; there is nothing to keep."""

    def __init__(self, function: object) -> None:
        raise RuntimeError("nothing is compiled")


def _stand_in_for_opencv() -> None:
    """Connected regions, for the clean-up of masks."""

    def regions(mask: NDArray[np.uint8], connectivity: int) -> tuple[int, Any, Any, None]:
        assert connectivity == 8
        flags = torch.from_numpy(np.ascontiguousarray(mask)).bool()
        numbers = torch.arange(1, flags.numel() + 1, dtype=torch.float64).view(flags.shape)
        labels = torch.where(flags, numbers, 0.0)
        while True:  # the largest number spreads through its region
            spread = torch.where(flags, F.max_pool2d(labels[None, None], 3, 1, 1)[0, 0], 0.0)
            if torch.equal(spread, labels):
                break
            labels = spread
        found, inverse = torch.unique(torch.cat([torch.zeros(1), labels.flatten()]), return_inverse=True)
        areas = torch.bincount(inverse[1:], minlength=len(found))
        stats = np.zeros((len(found), 5), np.int32)
        stats[:, 4] = areas.numpy()
        return len(found), inverse[1:].view(flags.shape).numpy(), stats, None

    _module("cv2", connectedComponentsWithStats=regions, CC_STAT_AREA=4)


def _stand_in_for_safetensors() -> None:
    """Its files, read and written whole."""
    names = {dtype: name for name, dtype in DTYPES.items()}

    def save_file(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
        header: dict[str, Any] = {"__metadata__": metadata or {}}
        end = 0
        for name, tensor in tensors.items():
            start, end = end, end + tensor.numel() * tensor.element_size()
            place = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
            header[name] = place
        text = json.dumps(header).encode()
        with Path(path).open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for tensor in tensors.values():
                file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())

    def read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
        data = Path(path).read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        metadata, tensors = header.pop("__metadata__", {}), {}
        for name, place in header.items():
            begin, end = place["data_offsets"]
            flat = torch.empty(math.prod(place["shape"]), dtype=DTYPES[place["dtype"]])
            if begin < end:
                own = np.frombuffer(data, np.uint8, end - begin, start + begin)
                flat.view(torch.uint8).copy_(torch.from_numpy(own.copy()))
            tensors[name] = flat.view(place["shape"])
        return metadata, tensors

    @contextmanager
    def safe_open(path: Path, framework: str) -> Iterator[SimpleNamespace]:
        metadata, tensors = read(path)
        yield SimpleNamespace(metadata=lambda: metadata, keys=tensors.keys, get_tensor=tensors.__getitem__)

    _module("safetensors", SafetensorError=ValueError, safe_open=safe_open).__path__ = []
    _module("safetensors.torch", load_file=lambda path: read(path)[1], save_file=save_file)


def _stand_in_for_tqdm() -> None:
    """Bars that are not drawn."""
    _module("tqdm", tqdm=lambda iterable=None, **_: iterable)


STAND_INS: Mapping[str, Callable[[], None]] = {
    "PIL": _stand_in_for_pillow,
    "cv2": _stand_in_for_opencv,
    "safetensors": _stand_in_for_safetensors,
    "tqdm": _stand_in_for_tqdm,
    "numba": _stand_in_for_numba,
}
"""By the name of the package; numba's imports the library, and so comes last."""
