"""The dataset card: ``README.md`` of a dataset, which the Hugging Face Hub and ``datasets`` read too."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sam_engine.annotation.report import Totals
from sam_engine.catalogue import NO_MODEL
from sam_engine.dataset.card_parts import front_matter, licences_of, terms_text
from sam_engine.dataset.manifest import Manifest
from sam_engine.dataset.run_info import RunInfo

CARD = "README.md"


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
    is_blurred: bool = False,
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
        is_blurred: Previews, and images that it holds, do not show everything.
    """
    licences = licences_of(manifest)
    statuses = "\n".join(f"| {status} | {count:,} |" for status, count in totals.statuses.items())
    settings = "\n".join(
        f"| `{key}` | `{json.dumps(value)}` |" for key, value in _shown(info.settings).items()
    )
    gaps = "".join(f"\n{line[0].upper()}{line[1:]}.\n" for line in passed_over)
    pictures = "\n".join(f"![Masks over an image]({name})" for name in previews)
    masks_per_image = totals.num_masks / max(1, totals.num_images - totals.num_failed)
    text = f"""{front_matter(totals.num_images, licences)}

# {name}
{_RANDOM_WEIGHTS if info.random_weights else ""}
{totals.num_images:,} images, {totals.num_masks:,} masks ({masks_per_image:.1f} per annotated \
image){_made(info)}

{pictures}

## Reading it

One row per image, also for images that could not be used. The columns are those of SA-1B's JSON.

```python
import datasets, pycocotools.mask

rows = datasets.load_dataset("parquet", data_files="annotations/*.parquet", split="train")
mask = pycocotools.mask.decode(rows[0]["annotations"][0]["segmentation"])  # (H, W), 0 or 1
```

Masks refer to the upright image, as `width` and `height` do. `bbox` is XYWH with a width of `x_max - x_min`.
{_where_images_are(info)}

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

{terms_text(licences, manifest, blurred=is_blurred)}
"""
    return text.encode(errors="backslashreplace")  # a name need not be UTF-8


def _where_images_are(info: RunInfo) -> str:
    """Return what there is of the images themselves."""
    name = "`file_name` is relative to the folder that they were read from."
    if info.settings.get("store_images"):
        return (
            "`image` is the upright image, as JPEG without metadata, which `datasets` decodes; "
            f"those that could not be\nused have none. {name}"
        )
    return f"The images themselves are not in the dataset; {name}"


def _made(info: RunInfo) -> str:
    """Return how the masks came about, to go on with."""
    if info.settings.get("model.name") == NO_MODEL:
        return ". The rows have no masks: people\ndraw them, and what they drew lies in `corrections/`."
    return f""", made by
a machine: a Segment Anything model was prompted with {_prompted(info)}, and the masks that it was sure
of and that are not duplicates were kept. The masks have no classes, may overlap, and cover parts as well as
whole things. Nobody has checked them one by one."""


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
