"""What a worker's machine is tried with before it makes shards: input, output, weights, device, speed.

Everything is done as in a run, by the run's own code; only that what it would publish is kept nowhere.
"""

import contextlib
import hashlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sam_engine.checkpoints.download import file_sha256
from sam_engine.checkpoints.resolve import Checkpoint
from sam_engine.config import AutoAnnotateConfig
from sam_engine.dataset.manifest import Manifest
from sam_engine.errors import ImageError, SamEngineError, describe_error
from sam_engine.inputs.source import InputSource
from sam_engine.storage.left_behind import temporary_name
from sam_engine.storage.store import Store
from sam_engine.structures import ManifestEntry, Shard, ShardReport

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sam_engine.annotation.prompt_table import PromptTable
    from sam_engine.modeling.segmenter import Segmenter


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the driver saw, which a worker must see, too. Small enough to be sent."""

    entry: ManifestEntry
    """An image of the input."""
    sha256: str | None
    """Of its bytes; None: it cannot be read here either."""
    mark: str
    """The name of an object in the output that the driver has created."""
    masks: "NDArray[np.bool_] | None"
    """`canary_masks` of the configured model on a CPU, in fp32; None without a model."""


@dataclass(frozen=True, kw_only=True)
class WorkerCheck:
    """How a worker did."""

    host: str
    device: str = ""
    problems: tuple[str, ...] = ()
    """A sentence each; empty: it is sound."""
    num_images: int = 0
    """Annotated for the estimate."""
    seconds: float = 0.0
    num_masks: int = 0
    num_bytes: int = 0
    """What their rows take in a shard."""


@dataclass(frozen=True, kw_only=True)
class Checkup:
    """Tries the machine that it is called on. Picklable."""

    config: AutoAnnotateConfig
    source: InputSource
    store: Store
    checkpoint: Checkpoint
    make_model: "Callable[[], Segmenter]"
    expected: Expected
    sample: Manifest | None = None
    """Images to annotate, counted from 0; None: no estimate is asked for."""
    prompts: "PromptTable | None" = None

    def __call__(self) -> WorkerCheck:
        """Return what was found; nothing is raised that is this machine's fault."""
        host = socket.gethostname()
        problems = [*self._reading(), *self._writing(), *self._weights()]
        if problems:
            return WorkerCheck(host=host, problems=tuple(problems))
        try:
            return self._with_model(self.make_model(), host)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            return WorkerCheck(host=host, problems=(f"the model does not work: {describe_error(error)}",))

    def refuse_sick(self, model: "Segmenter") -> None:
        """Raise `RuntimeError` if this machine, on which the model was loaded, is no place for a worker."""
        problems = [*self._reading(), *self._weights(), *self._masks(model)]
        if problems:
            raise RuntimeError(f"{socket.gethostname()}: {'; '.join(problems)}")

    def _reading(self) -> Iterator[str]:
        """Yield what is wrong with the input, seen from here."""
        digest = read_digest(self.source, self.expected.entry, self.config)
        if digest != self.expected.sha256:
            name = os.fsdecode(self.expected.entry.path)
            is_there = "has other bytes than where the driver is" if digest else "cannot be read"
            yield f"the input's {name} {is_there}"

    def _writing(self) -> Iterator[str]:
        """Yield what is wrong with the output: it must be the driver's, and give no name twice."""
        own = temporary_name("preflight")
        try:
            if self.store.put_exclusive(self.expected.mark, own.encode()):
                yield f"output {self.store.describe()} is another one here: what the driver wrote is missing"
            elif not self.store.put_exclusive(own, own.encode()) or self.store.read(own) != own.encode():
                yield f"output {self.store.describe()} does not give back what was written"
        except (SamEngineError, OSError) as error:
            yield f"the output cannot be written: {describe_error(error)}"
        finally:
            with contextlib.suppress(SamEngineError, OSError):
                self.store.delete_temporary(own)

    def _weights(self) -> Iterator[str]:
        """Yield what is wrong with the checkpoint, seen from here."""
        path = self.checkpoint.path
        if path is None:
            return
        try:
            digest = file_sha256(path)
        except OSError as error:
            yield f"checkpoint {path} cannot be read: {error.strerror}"
            return
        if digest != self.checkpoint.sha256:
            yield f"checkpoint {path} has sha256 {digest}, but where the driver is {self.checkpoint.sha256}"

    def _masks(self, model: "Segmenter") -> Iterator[str]:
        """Yield what is wrong with the device: a few pixels may differ, masks may not."""
        if self.expected.masks is None:
            return
        from sam_engine.annotation.canary import LEAST_IOU, canary_masks, mean_iou

        iou = mean_iou(canary_masks(model), self.expected.masks)
        if not iou >= LEAST_IOU:
            yield f"its {model.device.type} finds other masks than a CPU: mean IoU {iou:.3f}"

    def _with_model(self, model: "Segmenter", host: str) -> WorkerCheck:
        """Look at a canary, and annotate the sample."""
        from sam_engine.annotation.copies import MakeCopy
        from sam_engine.annotation.worker import ShardAnnotator

        problems = tuple(self._masks(model))
        if problems or self.sample is None:
            return WorkerCheck(host=host, device=model.device.type, problems=problems)
        executor = self.config.executor
        annotator = ShardAnnotator(
            model=model,
            source=self.source,
            store=_Nowhere(),  # type: ignore[arg-type]  # all that publishing calls
            manifest=self.sample,
            fingerprint="preflight",
            amg=self.config.amg,
            decode=self.config.decode,
            threads=executor.threads_per_worker,
            decode_threads=executor.decode_threads,
            prompts=self.prompts,
            copy=MakeCopy() if self.config.store_images else None,
        )
        with contextlib.closing(annotator):
            annotator.annotate(Shard(index=0, start=0, stop=1))  # what is done once is no part of the speed
            started = time.monotonic()
            report = annotator.annotate(Shard(index=0, start=0, stop=len(self.sample)))
            return _measured(report, time.monotonic() - started, host)


def _measured(report: ShardReport, seconds: float, host: str) -> WorkerCheck:
    return WorkerCheck(
        host=host,
        device=report.device,
        num_images=report.shard.num_images,
        seconds=seconds,
        num_masks=report.num_masks,
        num_bytes=report.num_bytes,
    )


def read_digest(source: InputSource, entry: ManifestEntry, config: AutoAnnotateConfig) -> str | None:
    """Return the sha256 of an image's bytes; None if they cannot be had."""
    try:
        return hashlib.sha256(source.read(entry, config.decode)).hexdigest()
    except ImageError:
        return None


class _Nowhere:
    """As much of a store as publishing needs: takes everything, keeps nothing."""

    def put_exclusive(self, name: str, data: bytes) -> bool:
        """Take an object."""
        return True
