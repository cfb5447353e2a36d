"""What can be made of datasets: each a dataset of its own, whose rows lead back to where they came from."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sam_engine.dataset.merged_inputs import inputs_of
from sam_engine.dataset.rewrite.choose import drawn, sides, without_copies
from sam_engine.dataset.rewrite.lineage import Descent
from sam_engine.dataset.rewrite.parents import Parent
from sam_engine.dataset.rewrite.rules import Rules
from sam_engine.dataset.rewrite.write import Derived, Source, derive
from sam_engine.errors import ConfigError, InputError
from sam_engine.storage.place import join


def filter_dataset(parent: Parent, output: str | Path, rules: Rules) -> Derived:
    """Write the images and masks that rules keep. Raises as `derive`, and `InputError` if no image is left.

    Corrections are applied first: a rule sees the masks as people left them.
    """
    descent = Descent(fingerprint=parent.dataset.fingerprint, prefix=b"", rules=rules)
    kept = [
        record.image_id
        for record in parent.dataset.records()
        if rules.keeps_image(descent.masks_left(record, parent.corrections.get(record.image_id, ())))
    ]
    return derive(
        [Source(parent=parent, image_ids=np.array(kept, np.int64))],
        output,
        operation={"name": "filter", "rules": rules.to_json()},
        rules=rules,
    )


def apply_corrections_of(parent: Parent, output: str | Path) -> Derived:
    """Write a dataset as people left it. Raises as `derive`, and `InputError` if nobody said anything."""
    if not parent.corrections:
        raise InputError(f"{parent.path} has no corrections: there is nothing to apply")
    return derive([_whole(parent)], output, operation={"name": "apply_corrections"})


def merge_datasets(parents: Sequence[Parent], output: str | Path, *, names: Sequence[str] = ()) -> Derived:
    """Write several datasets as one.

    Paths stay where all are of one input and none is there twice; otherwise each gets the name of its parent
    before it, as a folder, and run.json says where the input of each folder is.

    Args:
        parents: At least two.
        output: Of `derive`.
        names: Of the parents, one each; those of their directories if none are given.

    Raises:
        ConfigError: A parent is there twice, or two have one name; or as `derive`.
    """
    if len(parents) < 2:
        raise ConfigError(f"a merge takes two datasets or more, got {len(parents)}")
    fingerprints: dict[str, str] = {}
    for parent in parents:
        if first := fingerprints.get(parent.dataset.fingerprint):
            raise ConfigError(f"{parent.path} and {first} are the same dataset, by fingerprint; give it once")
        fingerprints[parent.dataset.fingerprint] = parent.path
    prefixes = list(names) or [parent.name for parent in parents]
    if len(prefixes) != len(parents):
        raise ConfigError(f"names are {', '.join(prefixes)}; give one for each of {len(parents)} datasets")
    if not names and _paths_can_stay(parents):
        prefixes = [""] * len(parents)
    elif len(set(prefixes)) < len(prefixes) or not all(map(_is_folder_name, prefixes)):
        raise ConfigError(f"names are {', '.join(prefixes)}; give --names, one word each, all different")
    sources = [
        Source(parent=parent, image_ids=_all(parent), prefix=prefix)
        for parent, prefix in zip(parents, prefixes, strict=True)
    ]
    return derive(sources, output, operation={"name": "merge"})


def split_dataset(
    parent: Parent, output: str | Path, fractions: Mapping[str, float], *, seed: int = 0
) -> dict[str, Derived]:
    """Write each side of a split as a dataset of its own, in a directory of that name below ``output``.

    Every image is on exactly one side; see `choose.sides`.

    Raises:
        ConfigError: The fractions are wrong; `InputError`, if a side has no image; or as `derive`.
    """
    for name in fractions:
        if not _is_folder_name(name):
            raise ConfigError(f"{name!r} is no name for a side; give a word")
    chosen = sides(parent, fractions, seed)
    for name, image_ids in chosen.items():
        if not len(image_ids):
            raise InputError(f"side {name} ({fractions[name]:g} of {len(parent.manifest):,} images) has none")
    return {
        name: derive(
            [Source(parent=parent, image_ids=image_ids)],
            join(os.fspath(output), name),
            operation={"name": "split", "side": name, "fractions": dict(fractions), "seed": seed},
        )
        for name, image_ids in chosen.items()
    }


def sample_dataset(
    parent: Parent,
    output: str | Path,
    *,
    fraction: float | None = None,
    count: int | None = None,
    seed: int = 0,
) -> Derived:
    """Write a random part of a dataset; see `choose.drawn`. Raises as that and `derive`."""
    image_ids = drawn(parent, fraction=fraction, count=count, seed=seed)
    operation = {"name": "sample", "fraction": fraction, "count": count, "seed": seed}
    return derive([Source(parent=parent, image_ids=image_ids)], output, operation=operation)


def dedupe_dataset(parent: Parent, output: str | Path) -> Derived:
    """Write a dataset without copies of files; see `choose.without_copies`. Raises as `derive`."""
    source = Source(parent=parent, image_ids=without_copies(parent))
    return derive([source], output, operation={"name": "dedupe", "by": "sha256"})


def _all(parent: Parent) -> NDArray[np.int64]:
    return np.arange(len(parent.manifest))


def _whole(parent: Parent) -> Source:
    return Source(parent=parent, image_ids=_all(parent))


def _paths_can_stay(parents: Sequence[Parent]) -> bool:
    """Return whether all images are of one input, and none of them is in two parents."""
    first, *others = (inputs_of(parent.dataset.run_info) for parent in parents)
    if any(other != first for other in others):
        return False
    paths = pa.chunked_array(
        [chunk for parent in parents for chunk in parent.manifest.table["path_bytes"].chunks],
        pa.large_binary(),
    )
    return bool(pc.count_distinct(paths).as_py() == len(paths))


def _is_folder_name(name: str) -> bool:
    """Return whether a name may stand before paths, and be that of a folder."""
    return name not in ("", ".", "..") and "/" not in name and name.isprintable()
