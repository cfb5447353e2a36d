"""What planning costs at the size of SA-1B: python -m tools.bench.planning [--images N] [--shards N].

Paths as SA-1B has them become a manifest, its file, and shards; each part in a process and with a peak
of its own. Then a dataset of as many shards as SA-1B would have is listed and its footers are read, as a run
does at its beginning and at its end. Its shards have the row groups of real ones, and hardly any rows.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sam_engine.__main__ import called
from sam_engine.dataset.manifest import Manifest, build_manifest, cut_shards
from sam_engine.dataset.published import committed_shards, published_shards
from sam_engine.dataset.schema import records_to_table
from sam_engine.dataset.shards import encode_tables, shard_name
from sam_engine.inputs.source import InputFile
from sam_engine.storage.local import LocalStore
from sam_engine.structures import ImageRecord, ImageStatus, Shard

from ..command import command_line

GROUPS = 5
"""Row groups of a shard of 500 images."""
ROWS = 2
"""In each of them, here."""
FINGERPRINT = "0" * 64


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog=called("tools.bench.planning"), description="Time the planning of a large run."
    )
    parser.add_argument("--images", type=int, default=11_185_362, help="default: those of SA-1B")
    parser.add_argument("--shards", type=int, default=11_000)
    parser.add_argument("--folder", help="for temporary files")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args(arguments)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        found["plan"] = _apart(plan, options.images, folder)
        found["open"] = _apart(read_plan, folder)
        write_shards(folder, options.shards)
        found["list"] = _apart(list_shards, folder)
        found["footers"] = _apart(read_footers, folder)
    if options.json:
        text = json.dumps(found, indent=2)
    else:
        text = "\n".join(
            f"{part:8}{each['seconds']:8.2f} s {each['peak_mib']:8.0f} MiB  {each['what']}"
            for part, each in found.items()
        )
    sys.stdout.write(text + "\n")
    return 0


def plan(num_images: int, folder: Path) -> str:
    """Freeze a listing and write it, as a run does that begins."""
    manifest = build_manifest(sa1b_files(num_images))
    data = manifest.to_bytes()
    (folder / "manifest.parquet").write_bytes(data)
    shards = cut_shards(len(manifest), 500)
    return f"{len(manifest):,} paths, {len(shards):,} shards, a manifest of {len(data):,} bytes"


def read_plan(folder: Path) -> str:
    """Read the frozen listing, as a worker does, and a run that goes on."""
    manifest = Manifest.from_bytes((folder / "manifest.parquet").read_bytes())
    return f"{len(manifest):,} paths, the last {manifest.entries(len(manifest) - 1, len(manifest))[0].path!r}"


def list_shards(folder: Path) -> str:
    """Find out which shards there are."""
    return f"{len(published_shards(LocalStore(folder))):,} shards"


def read_footers(folder: Path) -> str:
    """Read every footer."""
    found = committed_shards(LocalStore(folder), FINGERPRINT)
    return f"{len(found):,} shards, {sum(summary.shard.num_images for summary in found.values()):,} images"


def sa1b_files(num_images: int) -> Iterator[InputFile]:
    """Yield what a listing of SA-1B's thousand folders yields, in the order of a file system: none."""
    per_folder = -(-num_images // 1000)
    for number in range(num_images):
        folder, place = number % 1000, number // 1000
        image = folder * per_folder + place * 7919 % per_folder
        path = b"sa_%06d/sa_%d.jpg" % (folder, image)
        yield InputFile(path=path, size=100_000 + number % 977, mtime_ns=1_700_000_000_000_000_000 + number)


def write_shards(folder: Path, count: int) -> None:
    """Write small shards with real footers, without syncing them."""
    (folder / shard_name(0)).parent.mkdir()
    size = GROUPS * ROWS
    for index in range(count):
        shard = Shard(index=index, start=index * size, stop=(index + 1) * size)
        ids = range(shard.start, shard.stop)
        records = [
            ImageRecord(image_id=i, path=b"%d.jpg" % i, status=ImageStatus.OK_EMPTY, width=9, height=9)
            for i in ids
        ]
        tables = [records_to_table(records[at : at + ROWS]) for at in range(0, size, ROWS)]
        statuses = Counter({str(ImageStatus.OK_EMPTY): size})
        data = encode_tables(tables, shard=shard, fingerprint=FINGERPRINT, statuses=statuses, num_masks=0)
        (folder / shard_name(index)).write_bytes(data)


def _apart(work: Callable[..., str], *arguments: Any) -> dict[str, Any]:
    """Run a function in a fresh process; return its seconds, its peak memory and what it says."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_measured, args=(theirs, work, arguments))
    process.start()
    found: dict[str, Any] = ours.recv()
    process.join()
    return found


def _measured(pipe: Any, work: Callable[..., str], arguments: Sequence[Any]) -> None:
    """Send what a function cost and said."""
    started, used = time.perf_counter(), time.process_time()
    what = work(*arguments)
    seconds, used = time.perf_counter() - started, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    pipe.send(
        {
            "seconds": round(seconds, 3),
            "cpu_seconds": round(used, 3),
            "peak_mib": round(peak / 2**20, 1),
            "what": what,
        }
    )


if __name__ == "__main__":
    command_line(main)
