"""What the cards of all datasets have: the head that the Hub reads, and what is known of licences."""

import re
from collections.abc import Mapping

from sam_engine.dataset.manifest import Manifest

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_MORE_SIZES = ((10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))

_HUB_LICENCE = re.compile(r"cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-[234]\.[05]|mit|apache-2\.0")
_MAX_LICENCES = 20


def front_matter(
    num_images: int, licences: Mapping[str | None, int], data_files: str = "annotations/*.parquet"
) -> str:
    """Return what the Hugging Face Hub reads at the head of a card, between its lines of dashes."""
    return f"""---
license: {_hub_licence(licences)}
task_categories:
- mask-generation
- image-segmentation
size_categories:
- {_size_category(num_images)}
tags:
- segment-anything
- sa-1b
configs:
- config_name: default
  data_files: {data_files}
---"""


def licences_of(manifest: Manifest | None) -> dict[str | None, int]:
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


def terms_text(
    licences: Mapping[str | None, int], manifest: Manifest | None, *, blurred: bool = False
) -> str:
    """Return what is known of terms and origins, and that the rest is not."""
    blurring = (
        "What was found to be hidden\nwas blurred in the images; nobody has checked that it is all."
        if blurred
        else "No faces or\nnumber plates were blurred."
    )
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


def _size_category(num_images: int) -> str:
    """Return the Hub's name for a number of rows."""
    return next((name for limit, name in (*_SIZES, *_MORE_SIZES) if num_images < limit), "n>1B")
