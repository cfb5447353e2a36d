"""The worker: one resident model, shards in, published shards out."""

import hashlib
import time
from collections import defaultdict, deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from queue import SimpleQueue
from typing import TypedDict

import numpy as np
import torch

from sam_engine.automatic_mask_generator import Record, SamAutomaticMaskGenerator
from sam_engine.config import AmgConfig, DecodeConfig
from sam_engine.dataset.inputs import InputSource
from sam_engine.dataset.manifest import Manifest
from sam_engine.dataset.shards import publish_shard
from sam_engine.dataset.store import Store
from sam_engine.errors import ImageError
from sam_engine.images import DecodedImage, decode_image
from sam_engine.isolation import IsolatedDecoder
from sam_engine.leases import Lease, Verdict
from sam_engine.mask_search import is_out_of_memory
from sam_engine.modeling.sam import Segmenter
from sam_engine.structures import (
    Annotation,
    ImageRecord,
    ImageStatus,
    ManifestEntry,
    Shard,
    ShardProgress,
    ShardReport,
    Xywh,
)

READ_AHEAD = 2
"""Decoded images waiting for the model, for each decoding thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedImage:
    """What reading and decoding one file gave."""

    sha256: str | None
    """Of the file's bytes; None if they could not be had."""
    image: DecodedImage | ImageError


class ShardAnnotator:
    """Annotates shards with one model. A `ShardWorker`."""

    def __init__(
        self,
        *,
        model: Segmenter,
        source: InputSource,
        store: Store,
        manifest: Manifest,
        fingerprint: str,
        amg: AmgConfig,
        decode: DecodeConfig,
        threads: int,
        decode_threads: int,
    ) -> None:
        """Take everything that outlives a shard.

        Args:
            model: Resident on its device.
            source: Where files are read.
            store: Where shards are published.
            manifest: All images of the run.
            fingerprint: Of the run, for the shards' footers.
            amg: Settings of the generator.
            decode: Settings of the decoder.
            threads: CPU threads of the model. They change float sums, so it is a setting of the run.
            decode_threads: Threads that read and decode ahead.
        """
        self._model = model
        self._source = source
        self._store = store
        self._manifest = manifest
        self._fingerprint = fingerprint
        self._amg = amg
        self._decode = decode
        self._threads = threads
        self._decode_threads = decode_threads
        self._notes: list[str] = []
        self._generator = SamAutomaticMaskGenerator.from_config(model, amg)
        self._isolated: SimpleQueue[IsolatedDecoder] = SimpleQueue()
        if decode.isolate:
            for _ in range(decode_threads):
                self._isolated.put(IsolatedDecoder(decode))

    def close(self) -> None:
        """End the decoding processes, if there are any."""
        while not self._isolated.empty():
            self._isolated.get().close()

    @property
    def device_name(self) -> str:
        """The GPU's name, or the type of the device."""
        device = self._model.device
        return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

    def annotate(self, shard: Shard) -> ShardReport:
        """Annotate and publish one shard.

        Raises:
            StorageError: It cannot be written.
            ShardError: What is in its place already is something else.
        """
        for event in self.work(Lease(shard=shard)):
            if isinstance(event, ShardReport):
                return event
        raise AssertionError("work() ends with a report")

    def probe(self) -> None:
        """Find the masks at one point of a grey image, to show that model and device work.

        Raises:
            RuntimeError: They do not. After some CUDA errors nothing does in this process, or on this GPU.
        """
        config = replace(self._amg, points_per_side=1, crop_n_layers=0)
        grey = np.full((64, 64, 3), 127, np.uint8)
        with suppress(ImageError):  # numbers that are not finite are for the rows of images to report
            SamAutomaticMaskGenerator.from_config(self._model, config).generate(grey)

    def work(self, lease: Lease) -> Generator[ShardProgress | ShardReport, None, None]:
        """Yield progress before each image and before publishing and, when that is done, the report."""
        torch.set_num_threads(self._threads)
        shard, started, clock = lease.shard, time.monotonic(), _Clock()
        records: list[ImageRecord] = []
        num_masks = 0
        load = self._load_one_by_one if lease.careful else self._load_ahead
        # Closed here and not by the garbage collector, which would swallow what a signal raises meanwhile.
        with closing(load(lease)) as loaded:
            for entry in self._manifest.entries(shard.start, shard.stop):
                yield ShardProgress(
                    shard=shard, image_id=entry.image_id, num_done=len(records), num_masks=num_masks
                )
                if entry.image_id in lease.verdicts:
                    records.append(_given_up(entry, lease.verdicts[entry.image_id]))
                    continue
                with clock.stage("wait_for_image"):
                    image = next(loaded)
                with clock.stage("generate"):
                    record = self._annotate_image(entry, image)
                records.append(record)
                num_masks += len(record.annotations)
        yield ShardProgress(shard=shard, image_id=None, num_done=len(records), num_masks=num_masks)
        with clock.stage("publish"):
            published = publish_shard(self._store, records, shard=shard, fingerprint=self._fingerprint)
        notes, self._notes = tuple(self._notes), []
        yield ShardReport(
            shard=shard,
            statuses=published.summary.statuses,
            num_masks=published.summary.num_masks,
            num_bytes=published.num_bytes,
            sha256=published.sha256,
            seconds=time.monotonic() - started,
            stage_seconds=dict(clock.seconds),
            device=self.device_name,
            notes=notes,
        )

    def _load_ahead(self, lease: Lease) -> Generator[LoadedImage, None, None]:
        """Yield the shard's images in order; threads are a few images ahead of the caller."""
        entries = iter(self._entries(lease))
        waiting: deque[Future[LoadedImage]] = deque()
        pool = ThreadPoolExecutor(self._decode_threads, thread_name_prefix="decode")
        try:
            for _ in range(self._decode_threads * READ_AHEAD):
                waiting.extend(pool.submit(self._load, entry) for entry in islice(entries, 1))
            while waiting:
                image = waiting.popleft().result()
                waiting.extend(pool.submit(self._load, entry) for entry in islice(entries, 1))
                yield image
        finally:
            pool.shutdown(cancel_futures=True)

    def _load_one_by_one(self, lease: Lease) -> Generator[LoadedImage, None, None]:
        """Yield the shard's images in order; none is touched before it is asked for."""
        for entry in self._entries(lease):
            yield self._load(entry)

    def _entries(self, lease: Lease) -> list[ManifestEntry]:
        """Return the images of a lease that may be touched."""
        entries = self._manifest.entries(lease.shard.start, lease.shard.stop)
        return [entry for entry in entries if entry.image_id not in lease.verdicts]

    def _load(self, entry: ManifestEntry) -> LoadedImage:
        """Read and decode one file; what is wrong with it is part of the answer."""
        sha256 = None
        try:
            data = self._source.read(entry, self._decode)
            sha256 = hashlib.sha256(data).hexdigest()
            return LoadedImage(sha256=sha256, image=self._decode_image(data))
        except ImageError as error:
            return LoadedImage(sha256=sha256, image=error)
        except MemoryError:
            out_of_memory = ImageError(ImageStatus.OOM, "there was no memory to decode it")
            return LoadedImage(sha256=sha256, image=out_of_memory)

    def _decode_image(self, data: bytes) -> DecodedImage:
        """Decode in this process, or in one of those kept for that.

        Raises:
            ImageError: As `decode_image`; DECODER_CRASH if two processes died: one may have been killed.
        """
        if not self._decode.isolate:
            return decode_image(data, self._decode)
        decoder = self._isolated.get()
        try:
            try:
                return decoder.decode(data)
            except ImageError as error:
                if error.status is not ImageStatus.DECODER_CRASH:
                    raise
            return decoder.decode(data)
        finally:
            self._isolated.put(decoder)

    def _annotate_image(self, entry: ManifestEntry, loaded: LoadedImage) -> ImageRecord:
        """Return the row of one image."""
        image = loaded.image
        if isinstance(image, ImageError):
            return _failed(entry, loaded.sha256, image)
        try:
            found = self._generate(image)
        except ImageError as error:
            return replace(_failed(entry, loaded.sha256, error), **_size(image))
        annotations = tuple(annotation_of(record) for record in found)
        return ImageRecord(
            image_id=entry.image_id,
            path=entry.path,
            status=ImageStatus.OK if annotations else ImageStatus.OK_EMPTY,
            sha256=loaded.sha256,
            error=image.note,
            annotations=annotations,
            **_size(image),
        )

    def _generate(self, image: DecodedImage) -> list[Record]:
        """Return the masks of an image; note it if the generator had to take smaller batches of prompts.

        Raises:
            ImageError: Its masks do not fit into memory, or the model's numbers are not finite.
        """
        before = self._generator.config.points_per_batch
        try:
            return self._generator.generate(image.pixels)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            height, width = image.pixels.shape[:2]
            message = f"no memory to draw its masks at {width} x {height} pixels"
            raise ImageError(ImageStatus.OOM, message) from error
        finally:
            now = self._generator.config.points_per_batch
            if now < before:
                self._notes.append(f"memory ran out: amg.points_per_batch is {now} from now on")


class _Clock:
    """Adds up wall time by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the block's time for ``name``."""
        started = time.monotonic()
        yield
        self.seconds[name] += time.monotonic() - started


class _Size(TypedDict):
    """What a record knows of an image once it is decoded."""

    width: int
    height: int
    exif_orientation: int


def _size(image: DecodedImage) -> _Size:
    height, width = image.pixels.shape[:2]
    return {"width": width, "height": height, "exif_orientation": image.exif_orientation}


def annotation_of(record: Record) -> Annotation:
    """Return one mask of the generator as a row's annotation."""
    segmentation = record["segmentation"]
    height, width = segmentation["size"]
    return Annotation(
        size=(height, width),
        counts=segmentation["counts"],
        bbox=_xywh(record["bbox"]),
        area=int(record["area"]),
        predicted_iou=float(record["predicted_iou"]),
        stability_score=float(record["stability_score"]),
        crop_box=_xywh(record["crop_box"]),
        point_coords=tuple((float(x), float(y)) for x, y in record["point_coords"]),
    )


def _xywh(box: Sequence[float]) -> Xywh:
    x, y, width, height = box
    return float(x), float(y), float(width), float(height)


def _failed(entry: ManifestEntry, sha256: str | None, error: ImageError) -> ImageRecord:
    """Return the row of an image that cannot be used."""
    return ImageRecord(
        image_id=entry.image_id, path=entry.path, status=error.status, sha256=sha256, error=str(error)
    )


def _given_up(entry: ManifestEntry, verdict: Verdict) -> ImageRecord:
    """Return the row of an image that is not touched again."""
    return ImageRecord(image_id=entry.image_id, path=entry.path, status=verdict.status, error=verdict.reason)
