"""One measurement of `tools.bench`, in a process of its own: python -m tools.bench.job JSON.

A process of its own starts cold and has a peak of memory that is nobody else's. The result goes to stdout as
one line of JSON.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam_engine.config import AmgConfig, AutoAnnotateConfig, ExecutorConfig, ModelConfig

from ..command import command_line
from .table import OURS, Comparison, FilesPass, FirstPass

if TYPE_CHECKING:
    from sam_engine.modeling.sam import Sam


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to measure, as JSON can say it."""

    task: str
    """A key of `TASKS`."""
    model: str
    checkpoint: str | None
    """As ``model.checkpoint``."""
    precision: str
    device: str
    threads: int
    """Of the CPU."""
    images: str
    """Folder with the images as they are used."""
    amg: Mapping[str, Any]
    """Settings of the mask generator."""
    repeats: int = 1
    """Timed passes over the images."""
    engine: str = OURS
    """Of the first pass."""
    reference: bool = False
    """Whether to time segment_anything in turn with ours."""
    output: str = ""
    """File that receives calibrated weights."""

    @property
    def model_config(self) -> ModelConfig:
        """The settings of the model."""
        return ModelConfig(
            name=self.model, checkpoint=self.checkpoint, device=self.device, precision=self.precision
        )

    @property
    def amg_config(self) -> AmgConfig:
        """The settings of the mask generator."""
        return AmgConfig(**self.amg)


def perform(job: Job) -> dict[str, Any]:
    """Do it here and return the result."""
    import torch

    torch.set_num_threads(job.threads)
    result: dict[str, Any] = TASKS[job.task](job)
    return result


def calibrate_weights(job: Job) -> dict[str, Any]:
    """Write weights of a random network that finds masks on the first image."""
    from .calibration import save_calibrated
    from .run import load_images

    save_calibrated(job.model, load_images(job.images)[0], job.amg_config, Path(job.output), job.device)
    return {}


def first_pass(job: Job) -> dict[str, Any]:
    """Find the masks of the first image and see how much memory that took."""
    from sam_engine.catalogue import ARCHITECTURES

    from ..reference import import_segment_anything
    from .meters import peak_memory
    from .run import load_images, our_lap, reference_lap

    sam = _load(job)
    if job.engine == OURS:
        lap = our_lap(sam, job.amg_config)
    else:
        package = import_segment_anything(sam.device)
        lap = reference_lap(package, sam, ARCHITECTURES[job.model], job.amg_config)
    lap.run(load_images(job.images)[0])
    return asdict(FirstPass(peak_bytes=peak_memory(sam.device)))


def time_in_memory(job: Job) -> dict[str, Any]:
    """Time the images in memory, with the reference in turn if asked for."""
    import torch

    from sam_engine.catalogue import ARCHITECTURES
    from sam_engine.modeling.precision import HALF_DTYPES, cuda_tf32, image_dtype

    from ..reference import import_segment_anything
    from .meters import measure_matmul_rate
    from .run import load_images, measure

    sam = _load(job)
    dtype = HALF_DTYPES.get(job.precision, torch.float32)
    with cuda_tf32(sam.device, job.precision == "tf32"):
        encoder_rate = measure_matmul_rate(sam.device, dtype)
    with cuda_tf32(sam.device, False):
        decoder_dtype = image_dtype(job.precision, sam.device) or torch.float32
        decoder_rate = measure_matmul_rate(sam.device, decoder_dtype)
    comparison = measure(
        sam,
        ARCHITECTURES[job.model],
        load_images(job.images),
        job.amg_config,
        repeats=job.repeats,
        rates=(encoder_rate, decoder_rate),
        package=import_segment_anything(sam.device) if job.reference else None,
    )
    return asdict(comparison)


def time_files(job: Job) -> dict[str, Any]:
    """Make a dataset of the images, in this process, and time all but the loading of the model."""
    from sam_engine.annotation.run import RunEvent, annotate_dataset
    from sam_engine.structures import ShardReport

    from .run import load_images, our_lap, warm_up

    sam = _load(job)
    warm_up(our_lap(sam, job.amg_config), load_images(job.images)[0])
    with tempfile.TemporaryDirectory() as folder:
        config = AutoAnnotateConfig(
            input=job.images,
            output=str(Path(folder) / "dataset"),
            model=job.model_config,
            amg=job.amg_config,
            executor=ExecutorConfig(name="inline", threads_per_worker=job.threads),
            shard_size=10**6,
            previews=0,
        )
        reports: list[ShardReport] = []

        def keep(event: RunEvent) -> None:
            if isinstance(event, ShardReport):
                reports.append(event)

        annotate_dataset(config, keep, make_model=lambda: sam)
    (report,) = reports
    return asdict(
        FilesPass(
            num_images=report.shard.num_images,
            num_masks=report.num_masks,
            seconds=report.seconds,
            stage_seconds=dict(report.stage_seconds),
            notes=report.notes,
        )
    )


TASKS: Mapping[str, Callable[[Job], dict[str, Any]]] = {
    "weights": calibrate_weights,
    "first": first_pass,
    "memory": time_in_memory,
    "files": time_files,
}


def comparison_from(result: Mapping[str, Any]) -> Comparison:
    """Return what `time_in_memory` found, after its journey as JSON."""
    from .table import Timing

    timings = {name: result[name] and Timing(**result[name]) for name in ("ours", "reference")}
    return Comparison(**{**result, **timings})


def _load(job: Job) -> "Sam":
    """Return the model."""
    from sam_engine.build_sam import load_model

    return load_model(job.model_config)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one job."""
    (text,) = sys.argv[1:] if arguments is None else arguments
    sys.stdout.write(json.dumps(perform(Job(**json.loads(text)))) + "\n")
    return 0


if __name__ == "__main__":
    command_line(main)
