"""python -m tools.bench: the table, and what its numbers mean."""

import json
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from reference_models import SMALL

from sam_engine.build import ARCHITECTURES, build_architecture
from sam_engine.config import AmgConfig
from sam_engine.errors import ConfigError, InputError
from tools import bench
from tools.bench_calibration import calibrate
from tools.bench_meters import measure_matmul_rate, stopwatch
from tools.bench_run import Comparison, masks_of, measure, share_identical
from tools.reference import import_segment_anything

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


def photo(size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return coarse coloured noise, of which calibrated networks find masks."""
    noise = np.random.default_rng(3).integers(256, size=(12, 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize(size[::-1], Image.Resampling.BILINEAR))


def measure_small(repeats: int = 1, **settings: Any) -> Comparison:
    """Measure a small calibrated ViT on two photos."""
    torch.manual_seed(0)
    sam = build_architecture(SMALL)
    images, config = [photo((170, 250)), photo((250, 200))], AmgConfig(points_per_side=6)
    calibrate(sam, sam.encode(images[:1])[0], config)
    return measure(sam, SMALL, images, config, repeats=repeats, rates=(50.0, 40.0), **settings)


@pytest.fixture
def package() -> ModuleType:
    """The reference; tests are skipped where it is not installed."""
    try:
        return import_segment_anything()
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a photo and a file that is none."""
    Image.fromarray(photo((60, 90))).save(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_every_image_of_every_repeat_is_measured() -> None:
    """Two images, two repeats; the stages of an image add up to no more than its time."""
    result = measure_small(repeats=2, start_up_s=5.0)
    ours = result.ours

    assert len(ours.seconds) == len(ours.num_masks) == 4
    assert ours.num_masks[:2] == ours.num_masks[2:]
    assert min(ours.num_masks) > 0
    assert ours.encode_s + ours.decode_s + ours.post_s == pytest.approx(np.mean(ours.seconds))
    assert min(ours.encode_s, ours.decode_s, ours.post_s) > 0
    assert ours.cold_start_s is not None
    assert ours.cold_start_s > 5
    assert result.floor_s == pytest.approx(result.encoder_gflop / 50 + result.decoder_gflop / 40)
    assert (result.reference, result.identical, ours.syncs) == (None, None, None)


@pytest.mark.reference
def test_the_reference_finds_the_same_masks_with_its_own_model(package: ModuleType) -> None:
    """The package's network gets our calibrated weights."""
    result = measure_small(package=package)

    assert result.reference is not None
    assert result.reference.num_masks == result.ours.num_masks
    assert result.identical is not None
    assert result.identical > 0.9
    assert min(result.reference.encode_s, result.reference.decode_s, result.reference.post_s) > 0


@pytest.mark.reference
def test_the_reference_generator_is_driven_with_tiny(package: ModuleType) -> None:
    """Its network is ours then, decoding without what makes ours fast, in fp32 whatever ours has."""
    torch.manual_seed(0)
    architecture = replace(ARCHITECTURES["tiny"], image_size=128, trunk_width=0.25, prompt_embed_dim=64)
    sam = build_architecture(architecture)
    sam.precision = "bf16"
    config = AmgConfig(points_per_side=3, pred_iou_thresh=-10, stability_score_thresh=0)
    result = measure(
        sam,
        architecture,
        [photo((90, 128))],
        config,
        repeats=1,
        rates=(1.0, 1.0),
        package=package,
    )

    assert result.reference is not None
    assert min(result.reference.num_masks) > 0
    assert result.reference.decode_s > 0
    assert sam.precision == "bf16"


def test_nested_calls_count_once_for_the_outer_stage() -> None:
    """`decode` calls `prepare`; both are watched, and the methods are as before afterwards."""

    class Model:
        def prepare(self) -> None:
            time.sleep(0.02)

        def decode(self) -> None:
            self.prepare()

    model, seconds = Model(), defaultdict(float)
    with stopwatch([(model, {"prepare": "inner", "decode": "outer"})], seconds, CPU):
        model.decode()

    assert list(seconds) == ["outer"]
    assert seconds["outer"] >= 0.02
    assert vars(model) == {}


def test_identical_masks_are_a_share_of_the_larger_number() -> None:
    """Order does not matter; a mask that one found twice counts once if the other found it once."""

    def record(*counts: int) -> dict[str, Any]:
        return {"segmentation": {"size": [2, 3], "counts": list(counts)}}

    a, b, c = record(1, 5), record(2, 4), record(3, 3)

    assert share_identical([masks_of([a, b])], [masks_of([b, a])]) == 1
    assert share_identical([masks_of([a, a, b])], [masks_of([a, b])]) == pytest.approx(2 / 3)
    assert share_identical([masks_of([a, a])], [masks_of([a, a])]) == 1
    assert share_identical([masks_of([a]), masks_of([b])], [masks_of([a]), masks_of([c])]) == 0.5
    assert share_identical([masks_of([])], [masks_of([])]) is None


def test_peak_memory_forgets_what_was_freed() -> None:
    """An array of 400 MiB is seen in its own measurement and, where the system can forget, not in the next.

    In a process of its own, whose peak is not that of tests before.
    """
    work = """
import numpy, torch
from tools.bench_meters import peak_memory, reset_peak_memory
cpu = torch.device("cpu")
for grow in (False, True, False):
    reset_peak_memory(cpu)
    if grow:
        numpy.ones(50 * 2**20)
    print(peak_memory(cpu))
"""
    done = subprocess.run([sys.executable, "-c", work], cwd=ROOT, capture_output=True, text=True, check=True)
    before, grown, after = map(int, done.stdout.split())

    assert grown - before > 350 * 2**20
    if after == grown:
        pytest.skip("this system does not forget the peak of a process's memory")
    assert after - before < 50 * 2**20


def test_the_rate_of_products_is_finite() -> None:
    """In GFLOP/s: no machine of today is outside of this."""
    assert 0.1 < measure_matmul_rate(CPU, torch.float32) < 1e6


def test_a_table_is_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two sizes are two rows of all columns; what the numbers depend on comes first."""
    command = ["--images", str(folder), "--points-per-side", "2", "--repeats", "1", "--long-side", "96", "64"]
    code = bench.main(command)
    out = capsys.readouterr().out
    rows = [line.strip("| ").split(" | ") for line in out.splitlines() if line.startswith("| tiny")]

    assert code == 0
    assert [row[:4] for row in rows] == [["tiny", size, "fp32", "sam-engine"] for size in ("96", "64")]
    assert all(len(row) == len(bench.COLUMNS) for row in rows)
    assert "- images: a.png\n" in out
    assert "GFLOP to encode" in out


def test_json_holds_every_number(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For programs; the case names what was measured."""
    bench.main(["--images", str(folder / "a.png"), "--points-per-side", "2", "--repeats", "2", "--json"])
    result = json.loads(capsys.readouterr().out)

    assert result["machine"]["timed passes"] == "2"
    (run,) = result["runs"]
    assert run["case"] == {"model": "tiny", "long_side": 1024, "precision": "fp32"}
    assert len(run["ours"]["seconds"]) == 2
    assert run["ours"]["peak_bytes"] > 2**20
    assert run["reference"] is None


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--images", "absent.jpg"], InputError, "image 'absent.jpg' does not exist"),
        (["--images", "."], InputError, "no images in ."),
        (["--model", "vit_b", "vit_l", "--checkpoint", "x"], ConfigError, "--checkpoint is of one model"),
        (["--precision", "tf32"], ConfigError, "only CUDA has"),
    ],
)
def test_mistakes_are_named(
    arguments: list[str],
    error: type[Exception],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before anything is measured."""
    monkeypatch.chdir(tmp_path)

    with pytest.raises(error, match=message):
        bench.main(arguments)


def test_a_file_that_is_no_image_is_named(folder: Path) -> None:
    """As one line."""
    with pytest.raises(InputError, match=r"notes\.txt: cannot identify image file"):
        bench.main(["--images", str(folder / "notes.txt")])


def test_help_needs_no_torch() -> None:
    """And measuring needs neither Ray, Hydra nor pycocotools: a bare machine with a GPU may have none."""
    absent = ("ray", "hydra", "omegaconf", "pycocotools", "pyarrow", "cv2", "simplejpeg")
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({absent!r}))\n"
        "sys.modules['torch'] = None\n"
        "import tools.bench\n"
        "del sys.modules['torch']\n"
        "import tools.bench_run, tools.bench_calibration, tools.reference\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert (result.returncode, result.stderr) == (0, "")


def test_the_samples_are_photos_that_exist() -> None:
    """The default images lie in scikit-image's wheel, widest first."""
    pytest.importorskip("skimage")

    assert all(path.is_file() for path in bench._find_images(None))
