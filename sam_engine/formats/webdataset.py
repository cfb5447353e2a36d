"""WebDataset: tars of ``<key>.jpg`` and ``<key>.json``, one tar a shard, which are streamed in order.

The JSON is SA-1B's. Keys are ids of twelve digits: a key ends at the first dot, so that ``a.b.jpg`` and
``a.c.jpg`` would be one sample, and a name may lead out of where a tar is unpacked.
"""

from pathlib import Path

from sam_engine.formats.each_image import ImagesToWrite, copy_name
from sam_engine.formats.sa1b import image_json, open_tar


def write_webdataset(images: ImagesToWrite, folder: Path) -> None:
    """Write ``shard-000000.tar``, ... Same dataset, same bytes.

    A sample whose image cannot be had has its JSON alone.
    """
    for index in sorted(images.dataset.shards):
        with open_tar(folder / f"shard-{index:06d}.tar") as add:
            for record, masks, jpeg in images.images(shards=[index]):
                name = copy_name(record.image_id)
                if jpeg is not None:
                    add(name, jpeg)
                add(name.replace(".jpg", ".json"), image_json(record, masks, file_name=name))
