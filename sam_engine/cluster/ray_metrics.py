"""What a run on Ray tells Prometheus, through Ray's own exporters: nodes need ``ray[default]`` for them."""

from collections.abc import Mapping
from typing import Any

from sam_engine.structures import ShardReport


class RunMetrics:
    """Counters and gauges of one run. Without an exporter they count for nobody, and cost nothing."""

    def __init__(self) -> None:
        from ray.util.metrics import Counter, Gauge

        def counter(name: str, meaning: str, *tags: str) -> Any:
            return Counter(f"sam_engine_{name}", meaning, tag_keys=tags)

        self._images = counter("images", "Images published, by status", "status")
        self._masks = counter("masks", "Masks published")
        self._shards = counter("shards", "Shards published or given up", "outcome")
        self._bytes = counter("bytes", "Bytes published")
        self._stage_seconds = counter("stage_seconds", "Time of workers, by what they did", "stage")
        self._lost = counter("workers_lost", "Workers that failed or were pre-empted", "reason")
        self._workers = Gauge("sam_engine_workers", "Workers, by what they do", tag_keys=("state",))
        self._waiting = Gauge("sam_engine_shards_waiting", "Shards that nobody works on")

    def count(self, report: ShardReport) -> None:
        """Count a shard that ended, one way or the other."""
        self._shards.inc(tags={"outcome": "published" if report.error is None else "given_up"})
        for status, number in report.statuses.items():
            _add(self._images, number, status=str(status))
        _add(self._masks, report.num_masks)
        _add(self._bytes, report.num_bytes)
        for stage, seconds in report.stage_seconds.items():
            _add(self._stage_seconds, seconds, stage=stage)

    def lose(self, reason: str) -> None:
        """Count a worker that is gone: ``failed`` or ``preempted``."""
        self._lost.inc(tags={"reason": reason})

    def look(self, states: Mapping[str, int], *, num_waiting: int) -> None:
        """Set what is the case now."""
        for state, number in states.items():
            self._workers.set(number, tags={"state": state})
        self._waiting.set(num_waiting)


def _add(counter: Any, amount: float, **tags: str) -> None:
    """Add to a counter; Ray's refuse to be increased by nothing."""
    if amount > 0:
        counter.inc(amount, tags=tags)
