"""Images found again are shown as they were annotated."""

import numpy as np

from pipelines.auto_annotate import run
from sam_engine.config import DecodeConfig
from sam_engine.dataset.originals import open_originals
from sam_engine.dataset.reader import open_dataset
from sam_engine.images.decode import decode_image
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
