"""What a run says while it works, on stderr: a bar on a terminal, a line every few seconds elsewhere."""

import json
import logging
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Self

from tqdm import tqdm

from sam_engine.structures import ShardProgress, ShardReport

log = logging.getLogger(__name__)

LINE_EVERY_S = 5.0


class TextFormatter(logging.Formatter):
    """The message; anything from a warning on says what it is."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        text = super().format(record)
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line; numbers that a line carries are fields of their own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields: Mapping[str, Any] = getattr(record, "fields", {})
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **fields,
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up_logging(log_format: str) -> None:
    """Send the program's log to stderr, as ``text`` or ``json``."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for name in ("sam_engine", "pipelines"):
        logging.getLogger(name).setLevel(logging.INFO)


class Progress(AbstractContextManager["Progress"]):
    """Counts images and masks over all shards."""

    def __init__(self, *, total: int, done: int, masks: int, log_format: str) -> None:
        """Start at what earlier runs have done.

        Args:
            total: Images of the dataset.
            done: Images published already.
            masks: Masks published already.
            log_format: json never draws a bar.
        """
        self._done = self._before = done
        self._total = total
        self._masks = masks
        self._underway: dict[int, ShardProgress] = {}
        self._started = self._last_line = time.monotonic()
        self._bar: Any = None
        if log_format == "text" and sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=done, unit="image", dynamic_ncols=True)

    def __exit__(self, *exception: object) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()

    def show(self, event: ShardProgress | ShardReport) -> Self:
        """Count an event, and say so if it is time."""
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
            rate = (done - self._before) / (self._last_line - self._started)
            speed = f", {rate:.2f} images/s, {(self._total - done) / rate:.0f} s left" if rate else ""
            fields = {
                "images": done,
                "total": self._total,
                "masks": masks,
                "images_per_second": round(rate, 3),
            }
            log.info("%d of %d images, %d masks%s", done, self._total, masks, speed, extra={"fields": fields})
        return self
