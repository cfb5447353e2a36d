"""Images found again are shown as they were annotated."""

import numpy as np
from PIL import Image

from pipelines.auto_annotate import run
from sam_engine.config import DecodeConfig
from sam_engine.dataset.originals import open_originals
from sam_engine.dataset.reader import open_dataset
from sam_engine.dataset.rewrite.operations import filter_dataset
from sam_engine.dataset.rewrite.parents import open_parent
from sam_engine.dataset.rewrite.rules import Rules
from sam_engine.dataset.verify import verify_dataset
from sam_engine.images.decode import decode_image
from sam_engine.web.pictures import Pictures
from tests.corpus.tiff_writer import write_tiff
from tests.helpers import fakes


def test_originals_have_the_scale_and_the_bands_of_the_run(tmp_path):
    """Viewer, exports and training see the pixels that the masks were found on."""
    samples = np.random.default_rng(0).integers(0, 4096, (40, 60, 5), dtype=np.uint16)
    data = write_tiff(samples, photometric=1, extra=(0,) * 4)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tif").write_bytes(data)
    settings = {"scale": "0-4095", "bands": [5, 1, 4]}
    places = {"input": str(tmp_path / "in"), "output": str(tmp_path / "out")}
    run(
        fakes.run_settings(**places, **{f"decode__{name}": value for name, value in settings.items()}),
        fakes.make_disc_segmenter,
    )
    dataset = open_dataset(tmp_path / "out")
    [record] = dataset.records()

    shown = open_originals(dataset.run_info).pixels(record)

    assert np.array_equal(shown, decode_image(data, DecodeConfig(**settings)).pixels)


def test_images_of_a_dataset_that_grew_are_found(tmp_path):
    """Its manifest is sorted in segments; the viewer finds every image, also of what is derived from it."""
    (tmp_path / "in").mkdir()
    config = fakes.run_settings(
        input=str(tmp_path / "in"), output=str(tmp_path / "out"), on_input_change="extend"
    )
    for number, name in enumerate(("b.png", "a.png")):
        Image.fromarray(np.full((30, 40 + number, 3), number, np.uint8)).save(tmp_path / "in" / name)
        assert run(config, fakes.make_disc_segmenter) == 0
    filter_dataset(open_parent(tmp_path / "out"), tmp_path / "derived", Rules())
    for name, paths in (("out", [b"b.png", b"a.png"]), ("derived", [b"a.png", b"b.png"])):
        dataset = open_dataset(tmp_path / name)
        rows = list(dataset.records())

        assert verify_dataset(dataset).problems == []
        assert [row.path for row in rows] == paths
        assert [Pictures(dataset).pixels(row).shape[1] for row in rows] == [row.width for row in rows]
