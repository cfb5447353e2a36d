"""The dataset card: ``README.md`` of a dataset, which the Hugging Face Hub and ``datasets`` read too."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sam_engine.annotation.report import Totals
from sam_engine.dataset.manifest import Manifest
from sam_engine.dataset.run_info import RunInfo

CARD = "README.md"

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_MORE_SIZES = ((10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))

_HUB_LICENCE = re.compile(r"cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-[234]\.[05]|mit|apache-2\.0")
_MAX_LICENCES = 20

_RANDOM_WEIGHTS = """
> **Made with random weights.** The model was never trained; these masks test programs and describe nothing.
"""


def dataset_card(
    *,
    name: str,
    info: RunInfo,
    totals: Totals,
    passed_over: Sequence[str],
    checkpoint: str,
    previews: list[str],
    manifest: Manifest | None = None,
) -> bytes:
    """Return the card.

    Args:
        name: Of the dataset.
        info: Of its run.
        totals: Of its shards.
        passed_over: What the listing of the input left out, a line each.
        checkpoint: Where the weights came from.
        previews: Object names of the overlay pictures.
        manifest: Of its images, for what is known of their origin; None if nothing is.
    """
    licences = _licences(manifest)
    statuses = "\n".join(f"| {status} | {count:,} |" for status, count in totals.statuses.items())
    settings = "\n".join(
        f"| `{key}` | `{json.dumps(value)}` |" for key, value in _shown(info.settings).items()
    )
    gaps = "".join(f"\n{line[0].upper()}{line[1:]}.\n" for line in passed_over)
    pictures = "\n".join(f"![Masks over an image]({name})" for name in previews)
    masks_per_image = totals.num_masks / max(1, totals.num_images - totals.num_failed)
    text = f"""---
license: {_hub_licence(licences)}
task_categories:
- mask-generation
- image-segmentation
size_categories:
- {_size_category(totals.num_images)}
tags:
- segment-anything
- sa-1b
configs:
- config_name: default
  data_files: annotations/*.parquet
---

# {name}
{_RANDOM_WEIGHTS if info.random_weights else ""}
{totals.num_images:,} images, {totals.num_masks:,} masks ({masks_per_image:.1f} per annotated image), made by
a machine: a Segment Anything model was prompted with {_prompted(info)}, and the masks that it was sure
of and that are not duplicates were kept. The masks have no classes, may overlap, and cover parts as well as
whole things. Nobody has checked them one by one.

{pictures}

## Reading it

One row per image, also for images that could not be used. The columns are those of SA-1B's JSON.

```python
import datasets, pycocotools.mask

rows = datasets.load_dataset("parquet", data_files="annotations/*.parquet", split="train")
mask = pycocotools.mask.decode(rows[0]["annotations"][0]["segmentation"])  # (H, W), 0 or 1
```

Masks refer to the upright image, as `width` and `height` do. `bbox` is XYWH with a width of `x_max - x_min`.
The images themselves are not in the dataset; `file_name` is relative to the folder that they were read from.

## Contents

| status | images |
|---|---|
{statuses}
{gaps}
## How it was made

| setting | value |
|---|---|
{settings}

Weights: {checkpoint}. Versions: {", ".join(f"{key} {value}" for key, value in info.versions.items())}.
Fingerprint: `{info.fingerprint}`.

## Licence and privacy

{_terms(licences, manifest)}
"""
    return text.encode(errors="backslashreplace")  # a name need not be UTF-8


def _licences(manifest: Manifest | None) -> dict[str | None, int]:
    """Return the number of images by licence, the most frequent first; empty if no licence was given."""
    if manifest is None or "licence" not in manifest.extras:
        return {}
    counted = manifest.table["licence"].value_counts().to_pylist()
    counts = {item["values"]: item["counts"] for item in counted}
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0] is None, item[0])))


def _hub_licence(licences: Mapping[str | None, int]) -> str:
    """Return the Hub's word for a licence: that of all images, or other; unknown if that of one is."""
    if not licences or None in licences:
        return "unknown"
    [first, *others] = [str(licence).lower().replace(" ", "-") for licence in licences]
    first = {"cc0": "cc0-1.0"}.get(first, first)
    return first if not others and _HUB_LICENCE.fullmatch(first) else "other"


def _terms(licences: Mapping[str | None, int], manifest: Manifest | None) -> str:
    """Return what is known of terms and origins, and that the rest is not."""
    blurring = "No faces or\nnumber plates were blurred."
    if licences:
        shown = list(licences.items())[:_MAX_LICENCES]
        rows = [f"| {'unknown' if name is None else _in_cell(name)} | {count:,} |" for name, count in shown]
        if len(licences) > len(shown):
            rest = sum(licences.values()) - sum(count for _, count in shown)
            rows.append(f"| {len(licences) - len(shown):,} others | {rest:,} |")
        rows = ["| licence of the image | images |", "|---|---|", *rows]
        text = "\n".join(rows) + (
            f"\n\nThe masks are derived from the images. {blurring} Settle what is unknown before you "
            "publish this."
        )
    else:
        text = (
            "The licence of the images was not given, so it is unknown here; the masks are derived from "
            f"them. {blurring} Settle both before you publish this."
        )
    if manifest is not None and (names := [name for name in manifest.extras if name != "licence"]):
        known = [f"{name} of {len(manifest) - manifest.table[name].null_count:,}" for name in names]
        text += f"\n\nOf their origin the rows say: {', '.join(known)} of {len(manifest):,} images."
    return text


def _in_cell(text: str) -> str:
    """Return text that stays in its cell of a table, and means nothing there."""
    return " ".join(text.replace("|", "/").replace("<", "&lt;").split())


def _prompted(info: RunInfo) -> str:
    """Return what the model was prompted with."""
    return (
        "points or boxes from a table"
        if "amg.prompts_sha256" in info.settings
        else "a regular grid of points"
    )


def _shown(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a reader of the card wants, without the sizes of the network."""
    return {key: value for key, value in settings.items() if key != "model.architecture"}


def _size_category(num_images: int) -> str:
    """Return the Hub's name for a number of rows."""
    return next((name for limit, name in (*_SIZES, *_MORE_SIZES) if num_images < limit), "n>1B")
