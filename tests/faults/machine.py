"""A user and an adversary against one dataset, as a Hypothesis state machine.

They add, damage, replace and delete images; run, kill at a chosen point, resume, run twice at once, come with
other settings, and export. After each step what Hadoop asks of committers must hold, and every row be right.

* complete: a run that ends well leaves one row for each image of the manifest, and the counts add up;
* exclusive: no image is in two shards, and of two runs at once one is turned away;
* concurrent: the one that is turned away changes nothing;
* abortable: whatever dies at whatever point, what is visible is whole, and the next run goes on;
* continuous: what was published once is there ever after, and never changes.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import os
import shutil
import signal
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import tools.export
from sam_engine.dataset.manifest import Manifest
from sam_engine.dataset.reader import open_dataset
from sam_engine.dataset.schema import MANIFEST, RUN_INFO, SUCCESS
from sam_engine.dataset.verify import verify_dataset
from sam_engine.structures import ImageStatus
from tests.helpers import fakes

from .result import Order, Result
from .scene import Scene, read_files, wait

GOOD = "good"
KINDS = {GOOD: ImageStatus.OK, "page": ImageStatus.UNSUPPORTED, "cut": ImageStatus.TRUNCATED}
"""What an image may be, and what its row says then."""
CALLS = ("write", "fsync", "link", "unlink")
"""At which a run dies."""
STEPS = 20
"""Of the longest story."""
COUNTS: Result
"""Where stories are counted: Hypothesis makes machines without arguments."""


class FatalModel(fakes.DiscSegmenter):
    """Kills its process at the ``num_left``-th image from now."""

    def __init__(self, num_left: int) -> None:
        super().__init__((8.0, 10.0, 12.0), 64)
        self.num_left = num_left

    def encode(self, images):
        """Count down."""
        self.num_left -= 1
        if self.num_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(images)


class WaitingModel(fakes.DiscSegmenter):
    """Says that it has begun, and does not go on before it may."""

    def __init__(self, begun: int, may_go_on: int) -> None:
        super().__init__((8.0, 10.0, 12.0), 64)
        self.begun, self.may_go_on = begun, may_go_on

    def encode(self, images):
        """Wait at each image."""
        os.write(self.begun, b".")
        os.read(self.may_go_on, 1)
        return super().encode(images)


class DatasetMachine(RuleBasedStateMachine):
    """One folder of images, one output, and what is known of both."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="machine-"))
        self.photos = self.root / "photos"
        self.scene = Scene(
            root=self.root,
            config=fakes.run_settings(
                input=str(self.photos),
                output=str(self.root / "out"),
                shard_size=2,
                max_failed_fraction=1.0,
                amg__points_per_side=1,
            ),
            reference={},
        )
        self.kinds: dict[str, str] = {}
        self.digests: dict[str, set[str]] = defaultdict(set)
        self.frozen: dict[str, bytes] = {}
        self.touched: set[str] = set()
        self.expected: dict[str, ImageStatus] = {}
        self.published: dict[str, bytes] = {}
        self.number = 0

    def teardown(self) -> None:
        """Delete everything."""
        shutil.rmtree(self.root)

    # What befalls the images.

    @initialize(kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=7, max_size=15))
    def begin(self, kinds: list[str]) -> None:
        """Start with a few images."""
        for kind in [GOOD, *kinds]:
            self.add_image(kind)

    @rule(kind=st.sampled_from(sorted(KINDS)))
    def add_image(self, kind: str) -> None:
        """Add one; if a run has begun, it is none of that run's."""
        self.number += 1
        name = f"{self.number * 37 % 100:02d}-{self.number}.png"
        self._write(name, kind)

    @precondition(lambda self: len(self.kinds) > 1)
    @rule(data=st.data())
    def delete_image(self, data: st.DataObject) -> None:
        """Delete one."""
        name = data.draw(st.sampled_from(sorted(self.kinds)))
        (self.photos / name).unlink()
        del self.kinds[name]
        self.touched.add(name)

    @rule(data=st.data(), kind=st.sampled_from(sorted(KINDS)))
    def replace_image(self, data: st.DataObject, kind: str) -> None:
        """Put something else in the place of one."""
        name = data.draw(st.sampled_from(sorted(self.kinds)))
        self.touched.add(name)
        self._write(name, kind)

    # What befalls the runs.

    @rule()
    def run(self) -> None:
        """Run to the end, or resume to it."""
        assert self.scene.run() == 0, self._said()
        self._look()
        self._check_complete()

    @precondition(lambda self: not self._finished())
    @rule(num_images=st.integers(1, 8))
    def killed_at_an_image(self, num_images: int) -> None:
        """Run, and die in the middle of an image."""
        code = self.scene.run(model=functools.partial(FatalModel, num_images))
        self._survived(code)

    @precondition(lambda self: not self._finished())
    @rule(call=st.sampled_from(CALLS), k=st.integers(1, 12))
    def killed_before_a_call(self, call: str, k: int) -> None:
        """Run, and die before a call that changes the output."""
        self._survived(self.scene.run(functools.partial(_kill_at, call, k, after=False)))

    @precondition(lambda self: not self._finished())
    @rule(call=st.sampled_from(CALLS), k=st.integers(1, 12))
    def killed_after_a_call(self, call: str, k: int) -> None:
        """Run, and die after a call that changed the output."""
        self._survived(self.scene.run(functools.partial(_kill_at, call, k, after=True)))

    @precondition(lambda self: self._finished())
    @rule()
    def start_over(self) -> None:
        """Move on to a new output."""
        self.scene.clear()
        self.frozen, self.published = {}, {}

    @precondition(lambda self: self.published)
    @rule()
    def run_with_other_settings(self) -> None:
        """Come with other settings: turned away, nothing changes."""
        before = read_files(self.scene.output)
        decode = dataclasses.replace(self.scene.config.decode, background=7)
        other = dataclasses.replace(self.scene, config=dataclasses.replace(self.scene.config, decode=decode))

        assert other.run() == 2, self._said()
        assert read_files(self.scene.output) == before

    @precondition(lambda self: self.published and not self._finished())
    @rule()
    def run_twice_at_once(self) -> None:
        """Start a second run while the first has an image in hand: it is turned away, the first ends well."""
        begun, may_go_on = os.pipe(), os.pipe()
        first = self.scene.start(model=functools.partial(WaitingModel, begun[1], may_go_on[0]))
        os.close(begun[1])
        has_begun = os.read(begun[0], 1) == b"."
        if has_begun:
            before = read_files(self.scene.output)
            assert self.scene.run() == 5, self._said()
            assert read_files(self.scene.output) == before
        os.write(may_go_on[1], bytes(100))
        code = wait(first)
        os.close(may_go_on[0])
        os.close(may_go_on[1])
        os.close(begun[0])
        COUNTS.by_kind["overlaps" if has_begun else "runs"] += 1

        assert code == 0, self._said()
        self._look()
        self._check_complete()

    @precondition(lambda self: self.published)
    @rule()
    def export(self) -> None:
        """Export what there is: every annotated image, whether the run has finished or not."""
        target = self.root / "instances.json"
        target.unlink(missing_ok=True)

        with contextlib.redirect_stdout(io.StringIO()):
            command = [str(self.scene.output), "--to", "coco", "--output", str(target), "--partial"]
            code = tools.export.main(command)
        assert code == 0
        annotated = [row for row in self._rows() if not row.status.is_failure]
        assert len(json.loads(target.read_text())["images"]) == len(annotated)

    # What must hold after each step.

    @invariant()
    def what_is_visible_is_whole_and_stays(self) -> None:
        """Abortable and continuous; exclusive, because ids are checked by their place."""
        self._look()
        if self.published:
            problems = verify_dataset(open_dataset(self.scene.output)).problems
            unfinished = [p for p in problems if "have no row" in p or f"{SUCCESS}: is missing" in p]
            assert problems == ([] if self._finished() else unfinished)

    def _write(self, name: str, kind: str) -> None:
        """Write a file that is like no other."""
        path = fakes.write_image(self.photos / name, (self.number % 200, 20, 30), (12 + self.number % 5, 16))
        if kind == "page":
            path.write_bytes(b"<html>%d</html>" % self.number)
        elif kind == "cut":
            path.write_bytes(path.read_bytes()[:60])
        self.number += 1
        self.kinds[name] = kind
        self.digests[name].add(hashlib.sha256(path.read_bytes()).hexdigest())

    def _survived(self, code: int) -> None:
        """Count a death, if it was one; some runs end before the point comes."""
        COUNTS.by_kind["kills" if code == -signal.SIGKILL else "runs"] += 1
        assert code in (-signal.SIGKILL, 0), self._said()
        self._look()
        if code == 0:
            self._check_complete()

    def _look(self) -> None:
        """Compare what is published with what was, and take note of what is new."""
        files = read_files(self.scene.output)
        shards = {name: data for name, data in files.items() if name.startswith("annotations/")}
        for name, data in self.published.items():
            assert shards.get(name) == data, f"{name} has changed since it was published"
        if RUN_INFO in files and not self.frozen:
            self._freeze(files[MANIFEST])
        self.published = shards

    def _freeze(self, manifest: bytes) -> None:
        """Remember what the images were when the run took stock of them."""
        frozen = Manifest.from_bytes(manifest)
        assert {os.fsdecode(entry.path) for entry in frozen.entries(0, len(frozen))} == set(self.kinds)
        self.frozen = {name: (self.photos / name).read_bytes() for name in self.kinds}
        self.expected = {name: KINDS[kind] for name, kind in self.kinds.items()}
        self.touched.clear()

    def _check_complete(self) -> None:
        """Complete: each image that was frozen has its row, and the right one if nobody touched it."""
        rows = self._rows()
        assert [os.fsdecode(row.path) for row in rows] == sorted(self.frozen)
        assert self._finished()
        assert self.scene.temporaries() == []
        success = json.loads((self.scene.output / SUCCESS).read_text())
        assert sum(success["statuses"].values()) == len(self.frozen) == success["num_images"]
        for row in rows:
            name = os.fsdecode(row.path)
            if name not in self.touched:
                assert row.status is self.expected[name]
                assert row.sha256 == hashlib.sha256(self.frozen[name]).hexdigest()
            elif not row.status.is_failure:  # done before it was touched, or what came has its size
                assert row.sha256 in self.digests[name]

    def _rows(self) -> list:
        """Return all rows that are published."""
        return list(open_dataset(self.scene.output).records())

    def _finished(self) -> bool:
        """Return whether the dataset says that it is complete."""
        return (self.scene.output / SUCCESS).exists()

    def _said(self) -> str:
        """Return the end of what runs have printed."""
        return self.scene.log.read_text()[-2000:] if self.scene.log.exists() else "nothing"


def run_machine(work: Path, order: Order) -> Result:
    """Tell so many stories, 100 if not said; report the shortest that breaks an invariant."""
    global COUNTS
    COUNTS = result = Result(campaign="machine")
    tempfile.tempdir = str(work)
    machine: Callable[[], RuleBasedStateMachine] = seed(order.seed)(_Counted)
    try:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=order.limit or 100,
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate, Phase.shrink],
                print_blob=False,
            ),
        )
    except AssertionError as error:
        result.violations.append(f"{error}; {'; '.join(getattr(error, '__notes__', []))}")
    finally:
        tempfile.tempdir = None
    result.injected = result.by_kind["kills"]
    return result


class _Counted(DatasetMachine):
    """Counts the stories."""

    def teardown(self) -> None:
        COUNTS.by_kind["stories"] += 1
        super().teardown()


def _kill_at(name: str, k: int, *, after: bool) -> None:
    """Let the k-th ``os.name`` from now on be the last thing that this process does, or nearly does."""
    real, left = getattr(os, name), [k]

    def fatal(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0 and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = real(*args, **kwargs)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    setattr(os, name, fatal)
