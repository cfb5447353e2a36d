"""Runs from bucket to bucket: killed at random moments, and with a network and a service that fail.

The server is a process of its own, and so is whoever looks into the bucket: this one forks victims, for which
it must stay without threads.
"""

import contextlib
import json
import os
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sam_engine.annotation.report import REPORT
from sam_engine.annotation.worker_speeds import WORKERS_PREFIX
from sam_engine.storage.open import open_store
from sam_engine.storage.store import TEMPORARY

from .kills import run_kills
from .result import Order, Result
from .scene import Scene, difference, make_scene, wait

RATE = 0.15
"""Share of requests that something happens to."""
DEFAULT_FAULTS = 1000
RUNS = 400
"""At most."""


@dataclass(frozen=True, kw_only=True)
class BucketScene(Scene):
    """A scene whose photos and output are in a bucket. Every output has a name of its own: it is empty."""

    url: str
    """Of the output."""

    def clear(self) -> None:
        """Start from nothing."""
        _in_child(lambda: _empty(self.url))
        self.log.unlink(missing_ok=True)

    def files(self) -> dict[str, bytes]:
        """Return what readers can see."""
        return _in_child(lambda: _files(self.url))

    def temporaries(self) -> list[str]:
        """Return what writers have left behind."""
        return _in_child(lambda: open_store(self.url).list(f"{TEMPORARY}/"))

    def report(self) -> bytes | None:
        """Return the report, if there is one."""
        store = open_store(self.url)
        return _in_child(lambda: store.read(REPORT) if store.has(REPORT) else None)


@contextlib.contextmanager
def bucket_scene(kind: str, work: Path, images: int) -> Iterator[tuple[BucketScene, "Server"]]:
    """Make a scene on disk, copy its photos into a bucket, and run once undisturbed there."""
    local = make_scene(work, num_images=images)
    with serving(kind) as server:
        url = os.environ["STORE"]
        _in_child(lambda: _upload(work / "photos", f"{url}/photos"))
        config = replace(local.config, input=f"{url}/photos", output=f"{url}/out")
        scene = BucketScene(root=work, config=config, reference={}, url=f"{url}/out")
        if code := scene.run():
            raise RuntimeError(f"the undisturbed run ended with {code}:\n{scene.log.read_text()}")
        reference = scene.files()
        shards = {name for name in reference if name.endswith(".parquet") and "shard" in name}
        if any(reference[name] != local.reference[name] for name in shards):
            raise RuntimeError("shards in the bucket differ from those on the disk")
        yield replace(scene, reference=reference), server


@dataclass(frozen=True, kw_only=True)
class Server:
    """The process of the object store."""

    process: "subprocess.Popen[str]"

    def faults(self, rate: float) -> Counter[str]:
        """Set the rate from now on; return what happened until now."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{rate}\n")
        self.process.stdin.flush()
        return Counter(json.loads(self.process.stdout.readline()))


@contextlib.contextmanager
def serving(kind: str) -> Iterator[Server]:
    """Run the server; this process has its environment meanwhile."""
    command = [sys.executable, "-m", "tests.faults.bucket_server", kind]
    before = dict(os.environ)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"no server for {kind}")
        os.environ.update(json.loads(line))
        try:
            yield Server(process=process)
        finally:
            process.stdin.close()
            os.environ.clear()
            os.environ.update(before)


def kills_in(kind: str) -> Callable[[Path, Order], Result]:
    """Return the campaign of SIGKILLs with an output in an object store."""

    def campaign(work: Path, order: Order) -> Result:
        with bucket_scene(kind, work, order.images) as (scene, _):
            return replace_name(run_kills(scene, order), f"kill-{kind}")

    return campaign


def requests_of(kind: str) -> Callable[[Path, Order], Result]:
    """Return the campaign of requests that fail."""

    def campaign(work: Path, order: Order) -> Result:
        wanted = DEFAULT_FAULTS if order.limit is None else order.limit
        result = Result(campaign=f"requests-{kind}")
        with bucket_scene(kind, work, order.images) as (scene, server):
            for number in range(RUNS):
                scene.clear()
                server.faults(RATE)
                code = scene.run()
                result.by_kind = server.faults(0.0)
                result.injected = result.by_kind.total()
                result.outcomes[f"runs that ended with exit {code}"] += 1
                problems = (
                    difference(scene.files(), scene.reference)
                    if code == 0
                    else [f"exit {code}: {_last_line(scene)}"]
                )
                result.violations += [f"run {number}: {problem}" for problem in problems]
                if result.injected >= wanted or result.is_enough(order):
                    break
        return result

    return campaign


def replace_name(result: Result, name: str) -> Result:
    """Return a result under another name."""
    result.campaign = name
    return result


def _last_line(scene: Scene) -> str:
    return scene.log.read_text().strip().rpartition("\n")[2]


def _in_child(look: Callable[[], Any]) -> Any:
    """Return what a function returns in a fork: clients of object stores have threads."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(pickle.dumps(look()))
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    if wait(pid):
        raise RuntimeError("looking into the bucket failed")
    return pickle.loads(data)


def _files(url: str) -> dict[str, bytes]:
    store = open_store(url)
    ours = (REPORT, TEMPORARY, WORKERS_PREFIX)
    names = [name for name in store.list("") if not name.startswith(ours)]
    return {name: store.read(name) for name in names}


def _upload(folder: Path, url: str) -> None:
    for path in sorted(folder.iterdir()):
        open_store(url).replace(path.name, path.read_bytes())


def _empty(url: str) -> None:
    from sam_engine.storage.bucket import Bucket
    from sam_engine.storage.place import split_url

    bucket, folder = split_url(url)
    for each in list(Bucket(bucket).scan(folder)):
        Bucket(bucket).delete(each.name)
