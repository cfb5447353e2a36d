"""Before a run: every machine is tried, and what the run will take is estimated. Nothing of it stays."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from sam_engine.annotation.checkup import Checkup, Expected, WorkerCheck, read_digest
from sam_engine.annotation.preparation import Preparation
from sam_engine.annotation.prompt_table import NO_PROMPTS
from sam_engine.annotation.ray_survey import survey_on_ray
from sam_engine.annotation.segments import run_info, shards_of
from sam_engine.catalogue import NO_MODEL
from sam_engine.dataset.manifest import Manifest
from sam_engine.dataset.run_info import RunInfo
from sam_engine.dataset.schema import ANNOTATIONS_PREFIX, RUN_INFO
from sam_engine.dataset.shards import shard_name
from sam_engine.storage.exclusivity import refuse_inexclusive
from sam_engine.storage.left_behind import temporary_name

if TYPE_CHECKING:
    from sam_engine.modeling.segmenter import Segmenter


@dataclass(frozen=True, kw_only=True)
class PreflightReport:
    """What was found, and what follows for the run."""

    output: str
    num_images: int
    """In the shards that are open and this driver's."""
    num_shards: int
    checks: Sequence[WorkerCheck]
    """Of every worker that finds room now."""
    price_per_hour: float | None

    @property
    def sound(self) -> list[WorkerCheck]:
        """The workers that may be used."""
        return [check for check in self.checks if not check.problems]

    @property
    def refused(self) -> list[WorkerCheck]:
        """The others."""
        return [check for check in self.checks if check.problems]

    @property
    def worker_seconds(self) -> float:
        """How long one worker takes for all of the images."""
        return self._per_image("seconds") * self.num_images

    @property
    def seconds(self) -> float:
        """How long the sound workers take together."""
        return self.worker_seconds / max(1, len(self.sound))

    @property
    def num_masks(self) -> float:
        """Expected."""
        return self._per_image("num_masks") * self.num_images

    @property
    def num_bytes(self) -> float:
        """Expected, of all shards."""
        return self._per_image("num_bytes") * self.num_images

    @property
    def cost(self) -> float | None:
        """In the currency of the price; None without one."""
        return None if self.price_per_hour is None else self.worker_seconds / 3600 * self.price_per_hour

    def _per_image(self, name: str) -> float:
        """Return the mean over the images that were annotated."""
        images = sum(check.num_images for check in self.sound)
        return sum(getattr(check, name) for check in self.sound) / images if images else 0.0


def preflight(
    preparation: Preparation, make_model: "Callable[[], Segmenter]", make_cpu_model: "Callable[[], Segmenter]"
) -> tuple[PreflightReport, Checkup]:
    """Try the output and every worker's machine; return what was found, and what to refuse sick ones with.

    Args:
        preparation: Of the run.
        make_model: Returns the model; picklable.
        make_cpu_model: Returns it on a CPU in fp32: what it finds there is what is expected.

    Raises:
        ConfigError: The output does not keep what is written; or as `run_shards`.
        StorageError: It cannot be written.
    """
    config, store = preparation.config, preparation.store
    refuse_inexclusive(store)
    mark = temporary_name("preflight")
    store.put_exclusive(mark, b"of the driver")
    try:
        checkup = Checkup(
            config=config,
            source=preparation.source,
            store=store,
            checkpoint=preparation.checkpoint,
            make_model=make_model,
            expected=_expected(preparation, mark, make_cpu_model),
            prompts=NO_PROMPTS if config.model.name == NO_MODEL else preparation.prompts,
        )
        numbers = itertools.count()

        def check_on(device: str) -> Checkup:
            sample = _sample(preparation.manifest, config.preflight.num_images, next(numbers))
            maker = make_cpu_model if device == "cpu" else make_model
            return dataclasses.replace(checkup, sample=sample, make_model=maker)

        if config.executor.name == "ray":
            checks = survey_on_ray(check_on, config.executor, config.model.device)
        else:
            checks = [check_on(config.model.device)()]
    finally:
        store.delete_temporary(mark)
    images, shards = _open(preparation)
    report = PreflightReport(
        output=store.describe(),
        num_images=images,
        num_shards=shards,
        checks=checks,
        price_per_hour=config.preflight.price_per_hour,
    )
    return report, checkup


def _expected(preparation: Preparation, mark: str, make_cpu_model: "Callable[[], Segmenter]") -> Expected:
    """Return what the driver sees."""
    middle = len(preparation.manifest) // 2
    [entry] = preparation.manifest.entries(middle, middle + 1)
    masks = None
    if preparation.config.model.name != NO_MODEL:
        from sam_engine.annotation.canary import canary_masks

        masks = canary_masks(make_cpu_model())
    return Expected(
        entry=entry,
        sha256=read_digest(preparation.source, entry, preparation.config),
        mark=mark,
        masks=masks,
    )


def _sample(manifest: Manifest, num_images: int, worker: int) -> Manifest:
    """Return the images that a worker annotates: others than the workers before it, spread over the input."""
    number = min(num_images, len(manifest))
    offset = worker * 0.6180339887 % 1  # the golden section: any number of workers is spread evenly
    rows = sorted({int((place + offset) * len(manifest) / number) for place in range(number)})
    return _counted_anew(manifest, rows)


def _counted_anew(manifest: Manifest, rows: Sequence[int]) -> Manifest:
    """Return the manifest of some rows, as if there were no others."""
    table = manifest.table.take(pa.array(rows))
    ids = pa.array(range(len(rows)), table.schema.field("image_id").type)
    return Manifest(
        table.set_column(table.schema.get_field_index("image_id"), "image_id", ids).combine_chunks()
    )


def _open(preparation: Preparation) -> tuple[int, int]:
    """Return how many images and shards this driver has to make still, by the names of what is there."""
    store, config = preparation.store, preparation.config
    if store.has(RUN_INFO):
        info = RunInfo.from_json(store.read(RUN_INFO))
    else:
        info = run_info(preparation, preparation.manifest)
    there = set(store.list(ANNOTATIONS_PREFIX))
    shards = [
        shard
        for shard in shards_of(info)
        if config.partition.holds(shard) and shard_name(shard.index) not in there
    ]
    return sum(shard.num_images for shard in shards), len(shards)
