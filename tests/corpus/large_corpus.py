"""A folder as people have them: every kind of file, whole, cut, damaged and under a wrong name."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tests.corpus.image_corpus import photo
from tests.corpus.kinds import KINDS

PHOTO = "photo"
"""Kind of the photographs themselves."""
TREATMENTS = ("whole", "misnamed", "cut", "flipped")
LISTED = ("jpg", "png", "webp", "tif", "bmp", "gif")
NOT_LISTED = ("dat", "txt", "JPG~")


@dataclass(frozen=True, kw_only=True)
class CorpusFile:
    """One file of the folder."""

    name: str
    kind: str
    treatment: str
    data: bytes
    whole: bytes
    """The file before it was treated."""

    @property
    def is_read(self) -> bool:
        """Whether docs/images.md says that the kind is read."""
        return self.kind == PHOTO or KINDS[self.kind].is_read


def corpus(num_files: int, photos: Path | None = None, seed: int = 0) -> Iterator[CorpusFile]:
    """Yield files, each kind and treatment as often as any other; the same for the same arguments.

    Args:
        num_files: How many.
        photos: A folder of photographs: they come first, and others are made from them.
        seed: Of sizes, cuts and damage.
    """
    paths = sorted(photos.glob("*.*g")) if photos else []
    for path in paths:
        data = path.read_bytes()
        yield CorpusFile(name=path.name, kind=PHOTO, treatment="whole", data=data, whole=data)
    pictures = [photo(), *map(_reduced, paths)]
    names = sorted(KINDS)
    for index in range(num_files - len(paths)):
        round_number, place = divmod(index, len(names))
        rng = np.random.default_rng((seed, index))
        kind = KINDS[names[place]]
        height, width = rng.integers(40, 90, 2)
        picture = pictures[index % len(pictures)][:height, :width]
        whole = kind.make(np.ascontiguousarray(picture))
        treatment = TREATMENTS[(place + round_number) % len(TREATMENTS)]
        data = _treated(whole, treatment, rng)
        extension = kind.extension
        if treatment == "misnamed":
            others = [other for other in (*LISTED, *NOT_LISTED) if other != extension]
            extension = others[rng.integers(len(others))]
        name = f"{names[place].replace(' ', '_')}-{index:04}.{extension}"
        yield CorpusFile(name=name, kind=names[place], treatment=treatment, data=data, whole=whole)


def _treated(whole: bytes, treatment: str, rng: np.random.Generator) -> bytes:
    if treatment == "cut":
        return whole[: rng.integers(len(whole) // 20 + 1, len(whole))]
    if treatment == "flipped":
        damaged = np.frombuffer(whole, np.uint8).copy()
        # the first bytes say what a file is: damaged, it is another kind of file
        places = rng.integers(min(32, len(whole) // 2), len(whole), rng.integers(1, 20))
        damaged[places] ^= rng.integers(1, 256, places.size, dtype=np.uint8)
        return damaged.tobytes()
    return whole


def _reduced(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((144, 96)))
