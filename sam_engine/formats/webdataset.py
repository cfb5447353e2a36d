"""WebDataset: tars of ``<key>.jpg`` and ``<key>.json``, one tar a shard, which are streamed in order.

The JSON is SA-1B's. Keys are ids of twelve digits: a key ends at the first dot, so that ``a.b.jpg`` and
``a.c.jpg`` would be one sample, and a name may lead out of where a tar is unpacked.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sam_engine.dataset.corrections import Correction
from sam_engine.dataset.originals import Originals
from sam_engine.dataset.reader import Dataset
from sam_engine.files import refuse_used, writing_to
from sam_engine.formats.each_image import ImagesToWrite
from sam_engine.formats.sa1b import image_json, open_tar
from sam_engine.formats.source import ExportSummary


def export_webdataset(
    dataset: Dataset,
    output: Path,
    *,
    originals: Originals | None = None,
    corrections: Mapping[int, Sequence[Correction]] | None = None,
) -> ExportSummary:
    """Write ``shard-000000.tar``, ... Same dataset, same bytes.

    A sample whose image cannot be had has its JSON alone.

    Args:
        dataset: What to export. One row group is in memory at a time.
        output: Folder for the tars; it must be new or empty.
        originals: Where to take the images from; None writes annotations only.
        corrections: By image id, applied to what is written.

    Raises:
        ConfigError: ``output`` is in use.
        ShardError: The dataset is damaged.
        StorageError: The output cannot be written.
    """
    refuse_used(output)
    each = ImagesToWrite(dataset, originals=originals, corrections=corrections)
    with writing_to(output):
        output.mkdir(parents=True, exist_ok=True)
        for index in sorted(dataset.shards):
            with open_tar(output / f"shard-{index:06d}.tar") as add:
                for record, masks, jpeg in each.images(shards=[index]):
                    key = f"{record.image_id:012d}"
                    if jpeg is not None:
                        add(f"{key}.jpg", jpeg)
                    add(f"{key}.json", image_json(record, masks, original_name=True, stem=key))
    return each.summary()
