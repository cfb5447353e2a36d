"""The worker: one resident model, shards in, published shards out."""

import hashlib
import os
import socket
import time
from collections import defaultdict, deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from queue import SimpleQueue

import numpy as np
import torch
from numpy.typing import NDArray

from sam_engine.amg.filters import NothingFound
from sam_engine.amg.in_turn import Found, InTurn
from sam_engine.amg.mask_batch import Prompts
from sam_engine.amg.mask_finder import MaskFinder
from sam_engine.annotation.copies import MakeCopy
from sam_engine.annotation.leases import Lease
from sam_engine.annotation.prompt_table import PromptTable, within
from sam_engine.annotation.rows import LoadedImage, annotated, given_up, unusable, without_masks
from sam_engine.compute.device import is_queued
from sam_engine.config import AmgConfig, DecodeConfig
from sam_engine.dataset.manifest import Manifest
from sam_engine.dataset.schema import IMAGE
from sam_engine.dataset.shards import publish_shard
from sam_engine.errors import ImageError
from sam_engine.images.decode import DecodedImage, decode_image
from sam_engine.images.isolated import IsolatedDecoder
from sam_engine.inputs.source import InputSource
from sam_engine.modeling.segmenter import Segmenter
from sam_engine.storage.store import Store
from sam_engine.structures import (
    ImageRecord,
    ImageStatus,
    ManifestEntry,
    Shard,
    ShardProgress,
    ShardReport,
)

READ_AHEAD = 2
"""Decoded images waiting for the model, for each decoding thread."""


RETRY_PAUSES_S = (0.1, 0.5, 2.0)
"""Before a file is read again that could not be read for a reason that may pass, in seconds."""
CPU_PROMPTS_AT_ONCE = 64
"""On a CPU, whatever ``amg.points_per_batch`` says: how prompts are grouped can change the last bits of a
score, as products of few rows have kernels of their own. More are no faster, fewer save little memory."""


@dataclass(frozen=True, slots=True)
class _Work:
    """An image that is being worked on."""

    entry: ManifestEntry
    loaded: LoadedImage
    pixels: NDArray[np.uint8] | None
    """What to find masks on; None: it cannot be used, or nothing is asked of it."""
    prompts: Prompts | None
    """In place of a grid."""


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
        prompts: PromptTable | None = None,
        copy: MakeCopy | None = None,
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
            prompts: In place of a grid.
            copy: Makes the images that rows hold; None if they hold none.
        """
        if not is_queued(model.device):
            amg = replace(amg, points_per_batch=CPU_PROMPTS_AT_ONCE)
        self._model = model
        self._source = source
        self._store = store
        self._manifest = manifest
        self._fingerprint = fingerprint
        self._amg = amg
        self._decode = decode
        self._threads = threads
        self._decode_threads = decode_threads
        self._prompts = prompts
        self._copy = copy
        self._extras = (*manifest.extras, *(() if copy is None else (IMAGE,)))
        self._notes: list[str] = []
        self._finder = MaskFinder(model, amg)
        self._points_per_batch = amg.points_per_batch
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
        config = replace(
            self._amg,
            points_per_side=1,
            points_per_row=None,
            points_per_column=None,
            prompts=None,
            crop_n_layers=0,
        )
        grey = np.full((64, 64, 3), 127, np.uint8)
        with suppress(ImageError):  # numbers that are not finite are for the rows of images to report
            MaskFinder(self._model, config).find(grey)

    def work(self, lease: Lease) -> Generator[ShardProgress | ShardReport, None, None]:
        """Yield progress before each image and before publishing and, when that is done, the report.

        On a device, an image is begun before the one before it is finished, unless the lease is careful.
        """
        torch.set_num_threads(self._threads)
        self._finder.nothing_found = NothingFound()
        shard, started, clock = lease.shard, time.monotonic(), _Clock()
        records: list[ImageRecord] = []
        num_masks = 0
        load = self._load_one_by_one if lease.careful else self._load_ahead
        in_turn = InTurn(self._finder, overlaps=not lease.careful)
        older: _Work | None = None

        def progress(image_id: int | None) -> ShardProgress:
            return ShardProgress(
                shard=shard,
                image_id=image_id,
                num_done=len(records),
                num_masks=num_masks,
                is_alone=older is None,
            )

        # Closed here and not by the garbage collector, which would swallow what a signal raises meanwhile.
        with closing(load(lease)) as loaded:
            for entry in self._manifest.entries(shard.start, shard.stop):
                yield progress(entry.image_id)
                if entry.image_id in lease.verdicts:
                    records.append(given_up(entry, lease.verdicts[entry.image_id]))
                    continue
                with clock.stage("wait_for_image"):
                    newer = self._work_on(entry, next(loaded))
                with clock.stage("generate"):
                    found = in_turn.add(newer.pixels, prompts=newer.prompts)
                    if older is not None:
                        assert found is not None
                        records.append(self._row(older, found))
                        num_masks += len(records[-1].annotations)
                if in_turn.is_busy:
                    older = newer
                    continue
                if older is not None:
                    older = None
                    yield progress(entry.image_id)
                with clock.stage("generate"):
                    records.append(self._row(newer, [] if newer.pixels is None else in_turn.finish()))
                num_masks += len(records[-1].annotations)
            if older is not None:
                last, older = older, None
                yield progress(last.entry.image_id)
                with clock.stage("generate"):
                    records.append(self._row(last, in_turn.finish()))
                num_masks += len(records[-1].annotations)
        yield progress(None)
        with clock.stage("publish"):
            published = publish_shard(
                self._store,
                records,
                shard=shard,
                fingerprint=self._fingerprint,
                extras=self._extras,
            )
        empty = self._finder.nothing_found
        if empty.num_images:
            reason = empty.reason(self._finder.config)
            self._notes.append(f"no mask in {empty.num_images} of {shard.num_images} images: {reason}")
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
            worker=f"{socket.gethostname()}:{os.getpid()}",
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
            data = self._read(entry)
            sha256 = hashlib.sha256(data).hexdigest()
            image = self._decode_image(data)
            copy, image = (None, image) if self._copy is None else self._copy(entry, image)
            return LoadedImage(sha256=sha256, image=image, copy=copy)
        except ImageError as error:
            return LoadedImage(sha256=sha256, image=error)
        except MemoryError:
            out_of_memory = ImageError(ImageStatus.OOM, "there was no memory to decode it")
            return LoadedImage(sha256=sha256, image=out_of_memory)

    def _read(self, entry: ManifestEntry) -> bytes:
        """Return a file's bytes, asked for again after what may pass, as a network's errors do.

        Raises:
            ImageError: They cannot be had, or not soon.
        """
        for pause_s in RETRY_PAUSES_S:
            try:
                return self._source.read(entry, self._decode)
            except ImageError as error:
                if not error.is_transient:
                    raise
            time.sleep(pause_s)
        return self._source.read(entry, self._decode)

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

    def _work_on(self, entry: ManifestEntry, loaded: LoadedImage) -> _Work:
        """Return what is to be done on an image; the row says which prompts lie outside of it."""
        image = loaded.image
        if isinstance(image, ImageError):
            return _Work(entry, loaded, None, None)
        if self._prompts is None:
            return _Work(entry, loaded, image.pixels, None)
        prompts, notes = within(self._prompts.of(entry.path), image.pixels.shape[:2])
        if notes:
            note = "; ".join(notes if image.note is None else [image.note, *notes])
            loaded = replace(loaded, image=replace(image, note=note))
        return _Work(entry, loaded, image.pixels if len(prompts) else None, prompts)

    def _row(self, work: _Work, found: Found) -> ImageRecord:
        """Return the row of one image; note it if memory ran out and the finder takes smaller batches."""
        if self._finder.points_per_batch < self._points_per_batch:
            self._points_per_batch = self._finder.points_per_batch
            self._notes.append(
                f"memory ran out: amg.points_per_batch is {self._points_per_batch} from now on"
            )
        if isinstance(work.loaded.image, ImageError):
            return unusable(work.entry, work.loaded.sha256, work.loaded.image)
        if isinstance(found, ImageError):
            return without_masks(work.entry, work.loaded, found)
        return annotated(work.entry, work.loaded, found)


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
