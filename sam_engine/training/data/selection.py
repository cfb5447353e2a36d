"""Which images of which sources are trained on, at the size they are trained at."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam_engine.errors import ConfigError, InputError
from sam_engine.formats.open import open_source
from sam_engine.formats.source import READ_SETTINGS, AnnotatedImage, Source
from sam_engine.ops.rle import area_of
from sam_engine.storage.anywhere import open_file
from sam_engine.training.config import DataConfig
from sam_engine.training.data.regions import colour_regions


@dataclass(frozen=True, kw_only=True)
class ReducedImage:
    """An image and its masks at the size they are trained at; a mask is made when it is asked for."""

    image_id: int
    image: Image.Image
    """RGB."""
    original: AnnotatedImage | None
    """What the masks are of; None if they are ``regions``."""
    numbers: Sequence[int] = ()
    """Which masks of the original are large enough."""
    regions: Sequence[NDArray[np.bool_]] = ()
    """(H, W) each, found in the image itself."""

    @property
    def num_masks(self) -> int:
        """How many masks there are."""
        return len(self.regions) if self.original is None else len(self.numbers)

    def mask(self, number: int) -> NDArray[np.bool_]:
        """Return a mask (H, W), of the size of ``image``. A thin one may be empty at that size."""
        if self.original is None:
            return self.regions[number]
        return shrink_mask(self.original.mask(self.numbers[number]), self.image.size)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The images of one source that are trained on."""

    source: Source
    indices: Sequence[int]
    """Which images of the source."""
    as_regions: bool
    """Take regions of even colour for masks, in place of the annotations."""

    @property
    def name(self) -> str:
        """For logs and metadata."""
        return f"{self.source.name} regions" if self.as_regions else self.source.name

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, place: int, config: DataConfig) -> ReducedImage:
        """Return an image, reduced; raises `ImageError` as `Source.read`."""
        original = self.source.read(self.indices[place])
        small = shrink_image(Image.fromarray(original.pixels), config.short_side)
        if self.as_regions:
            regions = colour_regions(np.asarray(small))
            regions = [region for region in regions if region.sum() >= config.min_mask_pixels]
            return ReducedImage(image_id=original.image_id, image=small, original=None, regions=regions)
        factor = small.width * small.height / (original.pixels.shape[0] * original.pixels.shape[1])
        numbers = [
            number
            for number, runs in enumerate(original.runs)
            if area_of(runs) * factor >= config.min_mask_pixels
        ]
        return ReducedImage(image_id=original.image_id, image=small, original=original, numbers=numbers)


HELD_OUT_REMAINDER = 7
"""Of an image's id divided by ``hold_out``, if it is held out."""


def select(config: DataConfig) -> list[Selection]:
    """Open the sources of a training and return what is trained on, ``region_sources`` last.

    Left out is what does not pass ``licences``, and what ``hold_out`` holds out.

    Raises:
        ConfigError: There is no source, or licences are asked for that no table and no source names.
        InputError: A source or the table is unusable, or no image passes.
    """
    selections = _select(config, are_held_out=False)
    if not any(len(selection) for selection in selections):
        paths = ", ".join([*config.sources, *config.region_sources])
        raise InputError(f"no image of {paths} passes data.licences={config.licences}")
    return selections


def select_held_out(config: DataConfig, whole: Sequence[str]) -> list[Selection]:
    """Open what a training is scored on: the images that ``hold_out`` holds out, and all of other sources.

    Raises:
        ConfigError: As `select`.
        InputError: Or if ``hold_out`` holds nothing out.
    """
    selections = []
    if config.hold_out is not None:
        alone = replace(config, region_sources=[], images=config.images[: len(config.sources)], weights=[])
        selections = _select(alone, are_held_out=True)
        if not any(len(selection) for selection in selections):
            raise InputError(
                f"data.hold_out={config.hold_out} holds no image of {', '.join(config.sources)} out: none "
                f"has an id that leaves {HELD_OUT_REMAINDER % config.hold_out} when divided by it"
            )
    opened = [open_source(path) for path in whole]
    return selections + [
        Selection(source=source, indices=range(len(source)), as_regions=False) for source in opened
    ]


def _select(config: DataConfig, *, are_held_out: bool) -> list[Selection]:
    """Return the images of each source that are held out, or those that are not."""
    paths = [*config.sources, *config.region_sources]
    if not paths:
        raise ConfigError("data.sources is empty; give at least one, for example data.sources=[train.tar]")
    table = _licence_table(config)
    selections = []
    options = {name: getattr(config, name) for name in READ_SETTINGS}
    for number, path in enumerate(paths):
        images = config.images[number] if config.images else None
        source = open_source(path, images, **options)
        selections.append(
            Selection(
                source=source,
                indices=_part(
                    source, _allowed(source, config.licences, table), config.hold_out, are_held_out
                ),
                as_regions=number >= len(config.sources),
            )
        )
    return selections


def _part(source: Source, indices: Sequence[int], hold_out: int | None, are_held_out: bool) -> Sequence[int]:
    """Return which of the images are held out, or which are not."""
    if hold_out is None:
        return [] if are_held_out else indices
    remainder = HELD_OUT_REMAINDER % hold_out
    return [i for i in indices if (source.image_id(i) % hold_out == remainder) == are_held_out]


def matches_licence(text: str, wanted: Sequence[str]) -> bool:
    """Whether a licence names one of ``wanted`` as a whole term: ``CC BY`` is not in ``CC BY-NC 2.0``."""
    image_terms = text.split(";")[0]
    return any(re.search(rf"(?<![\w-]){re.escape(term)}(?![\w-])", image_terms) for term in wanted)


def shrink_image(image: Image.Image, short_side: int) -> Image.Image:
    """Reduce an image so that its shorter side is at most ``short_side``; never enlarge."""
    factor = short_side / min(image.size)
    if factor >= 1:
        return image
    size = (round(image.width * factor), round(image.height * factor))
    return image.resize(size, Image.Resampling.LANCZOS)


def shrink_mask(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Resize a mask to (width, height), keeping pixels that are covered by half."""
    if mask.shape == size[::-1]:
        return mask
    grey = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
    return np.asarray(grey) >= 128


def _allowed(source: Source, licences: Sequence[str], table: Mapping[int, str] | None) -> Sequence[int]:
    """Return which images of a source have one of the licences, by its own word or else by the table's."""
    if not licences:
        return range(len(source))
    allowed = []
    for index in range(len(source)):
        licence = source.licence(index)
        if licence is None:
            if table is None:
                raise ConfigError(
                    f"data.licences needs data.sources_csv, the table that has the licence of each image: "
                    f"{source.name} names none itself"
                )
            licence = table.get(source.image_id(index), "")
        if matches_licence(licence, licences):
            allowed.append(index)
    return allowed


def _licence_table(config: DataConfig) -> dict[int, str] | None:
    """Return the licence of each image id; None without a table."""
    if config.sources_csv is None:
        return None
    try:
        with io.TextIOWrapper(open_file(config.sources_csv), encoding="utf-8", newline="") as file:
            return {int(row["image_id"]): row["licence"] for row in csv.DictReader(file)}
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            f"{config.sources_csv}: no table with the columns image_id and licence ({error})"
        ) from error
