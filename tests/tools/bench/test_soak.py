"""python -m tools.bench.soak: memory over many images."""

import json

import pytest

from sam_engine.errors import ConfigError
from tools.bench import soak
from tools.bench.soak import Soak, describe, main


def test_the_slope_is_of_the_second_half() -> None:
    """What the first images allocate does not count; 100 bytes for each of the others do."""
    rss = (0, 5000, 10000, *range(20000, 20400, 100))
    soak = Soak(model="small", num_images=6, num_masks=3, rss_bytes=rss)

    assert soak.slope_bytes == pytest.approx(100)
    assert "second half: +100 bytes for each image, +0.09 GiB in a million" in describe(soak)


def test_every_image_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    """Memory is noted before each of 12 images, of all sizes, and once after."""
    pytest.importorskip("skimage")
    if not soak.STATM.exists():
        pytest.skip("this system does not tell the memory of a process")
    code = main(["--images", "12", "--points-per-side", "2", "--json"])
    result = json.loads(capsys.readouterr().out)

    assert code == 0
    assert len(result["rss_bytes"]) == 13
    assert min(result["rss_bytes"]) > 2**20
    assert result["num_masks"] == 12 * 2 * 2 * 3


def test_too_few_images_are_a_mistake() -> None:
    """They have no slope."""
    with pytest.raises(ConfigError, match="--images is 3"):
        main(["--images", "3"])
