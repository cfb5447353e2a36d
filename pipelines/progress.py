"""What a run says while it works, on stderr: a bar on a terminal, a line every few seconds elsewhere."""

import logging
import sys
import time
from contextlib import AbstractContextManager
from typing import Any, Self

from tqdm import tqdm

from sam_engine.structures import ShardProgress, ShardReport

log = logging.getLogger(__name__)

LINE_EVERY_S = 5.0


class Progress(AbstractContextManager["Progress"]):
    """Counts images and masks over all shards."""

    def __init__(self, log_format: str) -> None:
        """Draw nothing yet; json never draws a bar."""
        self._draws_bar = log_format == "text" and sys.stderr.isatty()
        self._bar: Any = None
        self._underway: dict[int, ShardProgress] = {}
        self.start(total=0, done=0)

    def start(self, *, total: int, done: int) -> None:
        """Start at what earlier runs have done; masks are those of this run.

        Args:
            total: Images of the dataset.
            done: Images published already.
        """
        self._done = self._before = done
        self._total = total
        self._masks = 0
        self._started: float | None = None  # with the first image: loading says nothing about speed
        self._last_line = time.monotonic()
        if self._draws_bar and total:
            self._bar = tqdm(total=total, initial=done, unit="image", dynamic_ncols=True)

    def __exit__(self, *exception: object) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()

    def show(self, event: ShardProgress | ShardReport) -> Self:
        """Count an event, and say so if it is time."""
        if self._started is None:
            self._started = time.monotonic()
            if self._bar is not None:
                self._bar.unpause()
        index = event.shard.index
        self._underway.pop(index, None)
        if isinstance(event, ShardProgress):
            self._underway[index] = event
        elif event.error is None:
            self._done += event.shard.num_images
            self._masks += event.num_masks
        done = self._done + sum(progress.num_done for progress in self._underway.values())
        masks = self._masks + sum(progress.num_masks for progress in self._underway.values())
        if self._bar is not None:
            self._bar.n = done
            self._bar.set_postfix_str(f"{masks:,} masks", refresh=False)
            self._bar.refresh()
        elif time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.monotonic()
            rate = (done - self._before) / max(self._last_line - self._started, 1e-9)
            speed = f", {rate:.2f} images/s, {(self._total - done) / rate:.0f} s left" if rate else ""
            fields = {
                "images": done,
                "total": self._total,
                "masks": masks,
                "images_per_second": round(rate, 3),
            }
            log.info("%d of %d images, %d masks%s", done, self._total, masks, speed, extra={"fields": fields})
        return self
