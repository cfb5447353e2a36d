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

from sam_engine.automatic_mask_generator import SamAutomaticMaskGenerator
from sam_engine.build_sam import build_architecture
from sam_engine.catalogue import ARCHITECTURES
from sam_engine.config import AmgConfig
from sam_engine.errors import ConfigError, InputError
from sam_engine.modeling.segmenter import ImageEmbedding
from tests.helpers.fakes import DiscSegmenter
from tests.helpers.reference_models import SMALL
from tools.bench import generator
from tools.bench.calibration import calibrate
from tools.bench.job import Job, perform
from tools.bench.meters import measure_matmul_rate, stopwatch
from tools.bench.run import Lap, masks_of, measure, share_identical, warm_up
from tools.bench.table import COLUMNS, Case, Comparison, FilesPass, describe
from tools.reference import import_segment_anything

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[3]


class HungrySegmenter(DiscSegmenter):
    """Runs out of memory with more than 8 prompts at once."""

    def decode(self, embedding: ImageEmbedding, **prompts: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if len(prompts["point_coords"]) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().decode(embedding, **prompts)


def photo(size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return coarse coloured noise, of which calibrated networks find masks."""
    noise = np.random.default_rng(3).integers(256, size=(12, 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize(size[::-1], Image.Resampling.BILINEAR))


def measure_small(repeats: int = 1, package: ModuleType | None = None) -> Comparison:
    """Measure a small calibrated ViT on two photos."""
    torch.manual_seed(0)
    sam = build_architecture(SMALL)
    images, config = [photo((170, 250)), photo((250, 200))], AmgConfig(points_per_side=6)
    calibrate(sam, sam.encode(images[:1])[0], config)
    return measure(sam, SMALL, images, config, repeats=repeats, rates=(50.0, 40.0), package=package)


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
    result = measure_small(repeats=2)
    ours = result.ours

    assert len(ours.seconds) == len(ours.cpu_seconds) == len(ours.num_masks) == 4
    assert 0 < sum(ours.cpu_seconds) <= 1.1 * sum(ours.seconds)  # one thread
    assert ours.num_masks[:2] == ours.num_masks[2:]
    assert min(ours.num_masks) > 0
    assert ours.encode_s + ours.decode_s + ours.post_s == pytest.approx(np.mean(ours.cpu_seconds))
    assert min(ours.encode_s, ours.decode_s, ours.post_s) > 0
    assert result.floor_s == pytest.approx(result.encoder_gflop / 50 + result.decoder_gflop / 40)
    assert (result.reference, result.identical, ours.syncs) == (None, None, None)
    assert ours.points_per_batch == 64


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
    """`decode` calls `prepare`; both are watched, by CPU time, and the methods are as before afterwards."""

    class Model:
        def prepare(self) -> None:
            stop = time.process_time() + 0.02
            while time.process_time() < stop:
                pass

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


def test_the_peak_is_that_of_the_process() -> None:
    """An array of 400 MiB that is gone counts."""
    work = """
import numpy, torch
from tools.bench.meters import peak_memory
print(peak_memory(torch.device("cpu")))
numpy.ones(50 * 2**20)
print(peak_memory(torch.device("cpu")))
"""
    done = subprocess.run([sys.executable, "-c", work], cwd=ROOT, capture_output=True, text=True, check=True)
    plain, grown = map(int, done.stdout.split())

    assert 350 * 2**20 < grown - plain < 450 * 2**20


def test_the_rate_of_products_is_finite() -> None:
    """In GFLOP/s: no machine of today is outside of this."""
    assert 0.1 < measure_matmul_rate(CPU, torch.float32) < 1e6


class HungryGenerator:
    """Runs out of memory with more than 8 points at once, as the reference's may."""

    points_per_batch = 16

    def generate(self, image: NDArray[np.uint8]) -> list[dict[str, Any]]:
        if self.points_per_batch > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [{}]


@pytest.mark.parametrize(
    "generator",
    [
        pytest.param(
            SamAutomaticMaskGenerator(HungrySegmenter(), points_per_side=4, points_per_batch=16), id="ours"
        ),
        pytest.param(HungryGenerator(), id="reference"),
    ],
)
def test_where_memory_runs_out_half_as_many_points_are_decoded_at_once(
    generator: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once, and kept for the images that follow."""
    lap = Lap(generator, [], CPU)
    for _ in range(2):
        assert len(lap.run(photo((60, 90)))) > 0

    assert lap.generator.points_per_batch == 8
    assert [record.message for record in caplog.records] == [
        "memory ran out: points_per_batch is 8 from now on"
    ]


def test_on_a_cpu_the_warm_up_is_a_batch_of_points() -> None:
    """A pass of the reference with vit_b takes minutes there. The points are all there again afterwards."""
    model = DiscSegmenter()
    generator = SamAutomaticMaskGenerator(model, points_per_side=4, points_per_batch=4)
    seen = []
    generator.generate = lambda image: seen.append([len(grid) for grid in generator.point_grids])
    warm_up(Lap(generator, [], CPU), photo((60, 90)))

    assert seen == [[4]]
    assert [len(grid) for grid in generator.point_grids] == [16]


def job(folder: Path, **fields: Any) -> Job:
    """Return a job of tiny with few points."""
    settings = {"points_per_side": 2, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
    images = folder / "images"
    if not images.exists():
        generator.write_images([folder / "a.png"], 96, images)
    return Job(
        **{
            "task": "memory",
            "model": "tiny",
            "checkpoint": None,
            "precision": "fp32",
            "device": "cpu",
            "threads": 1,
            "images": str(images),
            "amg": settings,
            **fields,
        }
    )


def test_files_become_parquet(folder: Path) -> None:
    """By the worker that makes datasets; it says how long each stage took."""
    files = FilesPass(**perform(job(folder, task="files")))

    assert files.num_images == 1
    assert files.num_masks > 0
    assert set(files.stage_seconds) == {"wait_for_image", "generate", "publish"}
    assert 0 < sum(files.stage_seconds.values()) <= files.seconds


@pytest.mark.reference
def test_every_number_has_a_process_of_its_own(folder: Path, package: ModuleType) -> None:
    """The first pass of each engine, all files, and the timing; cold starts are taken from outside."""
    done = []

    def launch(job: Job) -> dict[str, Any]:
        done.append((job.task, job.engine))
        return json.loads(json.dumps(perform(job)))

    case = Case(model="tiny", long_side=96, precision="fp32")
    result = generator.measure(case, job(folder, reference=True), launch=launch)
    lines = describe({}, [result]).splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| tiny")]

    assert done == [
        ("first", "sam-engine"),
        ("first", "segment_anything"),
        ("files", "sam-engine"),
        ("memory", "sam-engine"),
    ]
    assert [row[:4] for row in rows] == [
        ["tiny", "96", "fp32", name] for name in ("sam-engine", "segment_anything")
    ]
    assert all(len(row) == len(COLUMNS) for row in rows)
    ours, theirs = (dict(zip(COLUMNS, row, strict=True)) for row in rows)
    assert [name for name in COLUMNS if ours[name] == "-"] == ["syncs"]
    assert {name for name in COLUMNS if theirs[name] == "-"} == {
        "files: images/s",
        "files: masks/s",
        "syncs",
        "floor s",
        "ratio",
        "CPU ratio",
        "identical",
    }


def test_without_what_writes_parquet_files_are_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a bare machine with a GPU; the table says so."""
    monkeypatch.setattr(generator, "FILES_NEED", ("torch", "no_such_module"))
    case = Case(model="tiny", long_side=96, precision="fp32")
    result = generator.measure(case, job(folder), measures=["files"], launch=perform)
    options = generator._parse([])

    assert result.files is None
    assert (
        generator._describe_machine(options, [])["files to Parquet"]
        == "not measured: no_such_module is missing"
    )


@pytest.mark.slow
def test_the_command_prints_what_the_numbers_depend_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As JSON, every number of one case; measured in a real process."""
    command = [
        "--images",
        str(folder / "a.png"),
        "--points-per-side",
        "2",
        "--repeats",
        "2",
        "--long-side",
        "64",
    ]
    code = generator.main([*command, "--measures", "memory", "--json"])
    result = json.loads(capsys.readouterr().out)

    assert code == 0
    assert result["machine"]["timed passes"] == "2"
    assert result["machine"]["images"] == "a.png"
    (run,) = result["runs"]
    assert run["case"] == {"model": "tiny", "long_side": 64, "precision": "fp32"}
    assert len(run["comparison"]["ours"]["seconds"]) == 2
    assert (run["first"], run["files"], run["comparison"]["reference"]) == ({}, None, None)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--images", "absent.jpg"], InputError, "image 'absent.jpg' does not exist"),
        (["--images", "."], InputError, r"no images in \."),
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
        generator.main(arguments)


def test_a_file_that_is_no_image_is_named(folder: Path) -> None:
    """As one line."""
    with pytest.raises(InputError, match=r"notes\.txt: cannot identify image file"):
        generator.main(["--images", str(folder / "notes.txt")])


def test_help_needs_no_torch() -> None:
    """And measuring needs neither Ray, Hydra nor pycocotools; tools.equivalence reads datasets besides."""
    absent = ("ray", "hydra", "omegaconf", "pycocotools", "pyarrow", "cv2", "simplejpeg")
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({absent!r}))\n"
        "sys.modules['torch'] = None\n"
        "import tools.bench\n"
        "del sys.modules['torch']\n"
        "import tools.bench.run, tools.bench.job, tools.bench.calibration, tools.reference\n"
        "import tools.bench.decoder, tools.bench.growth\n"
        "from sam_engine.build_sam import load_model\n"
        "for name in ('pyarrow', 'cv2', 'simplejpeg'): del sys.modules[name]\n"
        "import tools.equivalence\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert (result.returncode, result.stderr) == (0, "")


def test_the_samples_are_photos_that_exist() -> None:
    """The default images lie in scikit-image's wheel, widest first."""
    pytest.importorskip("skimage")

    assert all(path.is_file() for path in generator.find_images(None))
