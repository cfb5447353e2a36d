"""The dataset card of a derived dataset."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePath

from sam_engine.dataset.card_parts import front_matter, licences_of, terms_text
from sam_engine.dataset.manifest import Manifest
from sam_engine.dataset.run_info import RunInfo
from sam_engine.dataset.shards import ShardSummary

CARD = "README.md"


def derived_card(
    where: str,
    info: RunInfo,
    manifest: Manifest,
    summaries: Iterable[ShardSummary],
    *,
    is_blurred: bool = False,
) -> bytes:
    """Return the card.

    Args:
        where: The dataset; its last component is its name.
        info: Of the dataset.
        manifest: Of its images.
        summaries: Of its shards.
        is_blurred: Images that it holds, or that are shown of it, do not show everything.
    """
    licences = licences_of(manifest)
    statuses: Counter[str] = Counter()
    num_masks = 0
    for summary in summaries:
        statuses.update(summary.statuses)
        num_masks += summary.num_masks
    rows = "\n".join(f"| {status} | {count:,} |" for status, count in sorted(statuses.items()))
    parents = "\n".join(
        f"- `{parent['fingerprint']}`" + (f", paths under `{parent['prefix']}/`" if parent["prefix"] else "")
        for parent in info.settings["parents"]
    )
    model = info.settings.get("model.name", "of several kinds: see the parents' settings in `_meta/run.json`")
    random = "\n> **Made with random weights.** These masks test programs and describe nothing.\n"
    text = f"""{front_matter(info.num_images, licences)}
# {PurePath(where).name}
{random if info.random_weights else ""}
{info.num_images:,} images, {num_masks:,} masks, derived from other datasets of Segment Anything masks by
`{json.dumps(info.settings["operation"])}`. Model: {model}.

Parents, by fingerprint; `parent_dataset`, `parent_image_id` and `annotations.parent_id` lead back to them:

{parents}

| status | images |
|---|---|
{rows}

Fingerprint: `{info.fingerprint}`.

## Licence and privacy

{terms_text(licences, manifest, blurred=is_blurred)}
"""
    return text.encode(errors="backslashreplace")
