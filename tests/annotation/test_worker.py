"""One worker: every image exactly one row, whatever befalls it."""

import dataclasses
from contextlib import closing

import pytest
import torch

from sam_engine.annotation.leases import Lease, Verdict
from sam_engine.config import DecodeConfig
from sam_engine.errors import ImageError
from sam_engine.images.decode import decode_image
from sam_engine.images.isolated import IsolatedDecoder
from sam_engine.structures import ImageStatus, ShardProgress, ShardReport
from tests.corpus.image_corpus import cases
from tests.helpers import fakes
from tests.helpers.annotators import make_annotator, records_of, statuses


def test_rows_are_in_order_of_the_manifest(tmp_path):
    """Reading ahead on threads changes nothing: row k is image k, with its own size."""
    fakes.write_images(tmp_path / "in", 23)
    annotator, shard = make_annotator(tmp_path / "in", tmp_path / "out")
    annotator.annotate(shard)

    rows = [(r.image_id, r.path, r.height, r.width) for r in records_of(tmp_path / "out")]

    assert rows == [(n, b"%03d.png" % n, 40 + n % 7, 60 + n % 5) for n in range(23)]


def test_masks_are_the_generators(tmp_path):
    """The row holds what generate() returns, as an annotation."""
    fakes.write_image(tmp_path / "in" / "a.png", size=(64, 64))
    annotator, shard = make_annotator(tmp_path / "in", tmp_path / "out", amg__points_per_side=1)
    annotator.annotate(shard)
    [record] = records_of(tmp_path / "out")
    [mask] = [a for a in record.annotations if a.predicted_iou == 1.0]

    assert record.status is ImageStatus.OK
    assert mask.size == (64, 64)
    assert mask.point_coords == ((32.0, 32.0),)
    assert mask.crop_box == (0.0, 0.0, 64.0, 64.0)
    assert mask.area == pytest.approx(3.14159 * 12.5**2, rel=0.02)  # radius 50 of 256, in 64 pixels


@pytest.mark.parametrize(
    ("content", "status"),
    [
        pytest.param(b"", "unsupported", id="empty"),
        pytest.param(b"<html>404</html>", "unsupported", id="html"),
        pytest.param(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "truncated", id="header-only"),
    ],
)
def test_bad_file_is_a_row_among_its_neighbours(tmp_path, content, status):
    """One bad file changes its own row only; the row says why and has the digest of what was read."""
    fakes.write_images(tmp_path / "in", 3)
    (tmp_path / "in" / "001.png").write_bytes(content)
    report, found = statuses(tmp_path / "in", tmp_path / "out")
    bad = records_of(tmp_path / "out")[1]

    assert found[0] == found[2] == "ok"
    assert found[1] == status
    assert report.statuses == {"ok": 2, status: 1}
    assert bad.error
    assert bad.sha256
    assert bad.annotations == ()


def test_file_that_vanishes_is_a_row(tmp_path):
    """Between listing and reading anything may happen."""
    fakes.write_images(tmp_path / "in", 2)
    annotator, shard = make_annotator(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "000.png").unlink()
    annotator.annotate(shard)
    first, second = records_of(tmp_path / "out")

    assert (first.status, first.sha256, second.status) == (ImageStatus.VANISHED, None, ImageStatus.OK)


def test_no_mask_is_ok_empty(tmp_path):
    """An image without masks was annotated all the same."""
    fakes.write_image(tmp_path / "in" / "a.png")
    _, found = statuses(tmp_path / "in", tmp_path / "out", amg__pred_iou_thresh=2.0)

    assert found == ["ok_empty"]


def test_memory_that_runs_out_halves_the_batch_once(tmp_path):
    """The masks are those of a run that had the memory; the report says so once."""
    fakes.write_image(tmp_path / "in" / "a.png", fakes.HUNGRY)
    fakes.write_image(tmp_path / "in" / "b.png", fakes.HUNGRY)
    report, found = statuses(
        tmp_path / "in", tmp_path / "out", amg__points_per_side=4, amg__points_per_batch=16
    )
    hungry = records_of(tmp_path / "out")
    calm, shard = make_annotator(
        tmp_path / "in", tmp_path / "calm", model=fakes.DiscSegmenter(), amg__points_per_side=4
    )
    calm.annotate(shard)

    assert found == ["ok", "ok"]
    assert report.notes == ("memory ran out: amg.points_per_batch is 8 from now on",)
    assert hungry == records_of(tmp_path / "calm")


def test_image_too_large_for_memory_is_a_row(tmp_path):
    """When not even one prompt fits, the image is given up, and the next one is done."""
    fakes.write_image(tmp_path / "in" / "a.png", fakes.GREEDY)
    fakes.write_image(tmp_path / "in" / "b.png")
    _, found = statuses(tmp_path / "in", tmp_path / "out")
    greedy = records_of(tmp_path / "out")[0]

    assert found == ["oom", "ok"]
    assert greedy.error == "no memory for its masks at 60 x 40 pixels"
    assert (greedy.width, greedy.height) == (60, 40)


def test_numbers_that_are_not_finite_are_a_row(tmp_path):
    """NaN never becomes a mask, nor an image without masks."""
    fakes.write_image(tmp_path / "in" / "a.png", fakes.NON_FINITE)
    fakes.write_image(tmp_path / "in" / "b.png")
    _, found = statuses(tmp_path / "in", tmp_path / "out")

    assert found == ["model_nonfinite", "ok"]


def test_error_of_ours_is_not_an_images_fault(tmp_path):
    """What is not known to be the image's is raised, and nothing is published."""
    fakes.write_image(tmp_path / "in" / "a.png", fakes.RAISING)
    annotator, shard = make_annotator(tmp_path / "in", tmp_path / "out")

    with pytest.raises(IndexError, match="no such thing"):
        annotator.annotate(shard)
    assert list((tmp_path / "out").glob("**/*")) == []


def test_careful_work_gives_the_same_bytes(tmp_path):
    """One image at a time, or ahead on threads: same rows, same shard."""
    fakes.write_images(tmp_path / "in", 7)
    digests = set()
    for careful in (False, True):
        annotator, shard = make_annotator(tmp_path / "in", tmp_path / f"out{careful}")
        *_, report = annotator.work(Lease(shard=shard, careful=careful))
        digests.add(report.sha256)

    assert len(digests) == 1


def test_careful_work_touches_an_image_only_after_naming_it(tmp_path):
    """So the last name is that of the image that killed the worker, even in its decoder."""
    fakes.write_images(tmp_path / "in", 4)
    annotator, shard = make_annotator(tmp_path / "in", tmp_path / "out")
    events = annotator.work(Lease(shard=shard, careful=True))
    next(events)
    next(events)
    for path in (tmp_path / "in").iterdir():  # the second image is named but not touched
        path.unlink()
    *_, report = events

    assert report.statuses == {"ok": 1, "vanished": 3}


def test_extreme_sizes_are_annotated(tmp_path):
    """One pixel, and a strip two hundred times as long as high, are images like others."""
    fakes.write_image(tmp_path / "in" / "dot.png", size=(1, 1))
    fakes.write_image(tmp_path / "in" / "strip.png", size=(100, 20_000))
    annotator, shard = make_annotator(tmp_path / "in", tmp_path / "out")
    annotator.annotate(shard)
    sizes = [(record.height, record.width) for record in records_of(tmp_path / "out")]

    assert sizes == [(1, 1), (100, 20_000)]


def test_equal_files_are_rows_of_their_own(tmp_path):
    """The same bytes under two names give two rows with one digest and the same masks."""
    for name in ("a/one.png", "b/one.png"):
        fakes.write_image(tmp_path / "in" / name)
    annotator, shard = make_annotator(tmp_path / "in", tmp_path / "out")
    annotator.annotate(shard)
    first, second = records_of(tmp_path / "out")

    assert (first.path, second.path) == (b"a/one.png", b"b/one.png")
    assert first.sha256 == second.sha256
    assert first.annotations == second.annotations


def test_lenient_row_is_marked(tmp_path):
    """With decode.strict=false a damaged JPEG is annotated, and its row says what was wrong with it."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "half.jpg").write_bytes(cases()["half.jpg"].data)
    (tmp_path / "in" / "ok.jpg").write_bytes(cases()["ok.jpg"].data)
    annotator, shard = make_annotator(tmp_path / "in", tmp_path / "out", decode__strict=False)
    annotator.annotate(shard)
    half, sound = records_of(tmp_path / "out")

    assert half.status is ImageStatus.OK
    assert half.error.startswith("decoded leniently: the file ends after")
    assert sound.error is None


def test_isolated_decoding_gives_the_same_bytes(tmp_path):
    """Where an image is decoded changes nothing, nor does what is no image."""
    fakes.write_images(tmp_path / "in", 5)
    (tmp_path / "in" / "002.png").write_bytes(b"no image")
    digests = set()
    for isolate in (False, True):
        annotator, shard = make_annotator(
            tmp_path / "in", tmp_path / f"out{isolate}", decode__isolate=isolate
        )
        with closing(annotator):
            digests.add(annotator.annotate(shard).sha256)

    assert len(digests) == 1


@pytest.mark.parametrize(("deaths", "found"), [(1, "ok"), (2, "decoder_crash")])
def test_image_is_to_blame_when_two_decoders_died_of_it(tmp_path, deaths, found):
    """One may have been killed from outside, as by the kernel when memory is short. Neighbours are kept."""

    class MortalDecoder(IsolatedDecoder):
        def decode(self, data):
            if data == doomed and deaths_left:
                deaths_left.pop()
                raise ImageError(ImageStatus.DECODER_CRASH, "the decoding process was killed by SIGKILL")
            return decode_image(data, self._config)

    fakes.write_images(tmp_path / "in", 3)
    doomed, deaths_left = (tmp_path / "in/001.png").read_bytes(), [None] * deaths
    annotator, shard = make_annotator(tmp_path / "in", tmp_path / "out", decode__isolate=True)
    for decoder in (annotator._isolated.get(), annotator._isolated.get()):
        decoder.close()
        annotator._isolated.put(MortalDecoder(DecodeConfig()))
    with closing(annotator):
        annotator.annotate(shard)

    assert [str(row.status) for row in records_of(tmp_path / "out")] == ["ok", found, "ok"]


def test_verdict_is_the_row_of_an_image_that_is_not_touched(tmp_path):
    """Status and reason are the verdict's; the file is not even opened."""
    fakes.write_images(tmp_path / "in", 3)
    annotator, shard = make_annotator(tmp_path / "in", tmp_path / "out")
    verdict = Verdict(status=ImageStatus.WORKER_CRASH, reason="the worker died")
    *_, report = annotator.work(Lease(shard=shard, careful=True, verdicts={1: verdict}))
    row = records_of(tmp_path / "out")[1]

    assert report.statuses == {"ok": 2, "worker_crash": 1}
    assert (row.status, row.error, row.sha256) == (ImageStatus.WORKER_CRASH, "the worker died", None)


def test_progress_names_every_image_before_it_is_done(tmp_path):
    """Counts are of what lies behind. Before publishing no image is in hand."""
    fakes.write_images(tmp_path / "in", 3)
    annotator, shard = make_annotator(tmp_path / "in", tmp_path / "out", amg__points_per_side=1)
    *progress, report = annotator.work(Lease(shard=shard))

    assert all(isinstance(event, ShardProgress) for event in progress)
    assert [(event.image_id, event.num_done) for event in progress] == [
        (0, 0), (1, 1), (2, 2), (None, 3),
    ]  # fmt: skip
    assert isinstance(report, ShardReport)
    assert report.num_masks == sum(len(r.annotations) for r in records_of(tmp_path / "out"))


def test_probe_uses_the_model(tmp_path):
    """A model or device that no longer works is found out without an image; NaN is left to rows to report."""
    fakes.write_image(tmp_path / "in" / "a.png")

    class Broken(fakes.DiscSegmenter):
        def decode(self, *_, **__):
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    class NonFinite(fakes.TroubledSegmenter):
        def encode(self, images):
            embeddings = super().encode(images)
            self.trouble = fakes.NON_FINITE
            return embeddings

    for model in (fakes.DiscSegmenter(), NonFinite()):
        make_annotator(tmp_path / "in", tmp_path / "out", model=model)[0].probe()
    with pytest.raises(RuntimeError, match="device-side assert"):
        make_annotator(tmp_path / "in", tmp_path / "out", model=Broken())[0].probe()


def test_second_worker_adopts_what_the_first_published(tmp_path):
    """Two workers on one shard: one file, and both report it."""
    fakes.write_images(tmp_path / "in", 3)
    annotator, shard = make_annotator(tmp_path / "in", tmp_path / "out")
    reports = [annotator.annotate(shard) for _ in range(2)]

    assert reports[0].sha256 == reports[1].sha256
    assert dataclasses.replace(reports[0], seconds=0, stage_seconds={}) == dataclasses.replace(
        reports[1], seconds=0, stage_seconds={}
    )


def test_model_gets_the_threads_of_the_settings(tmp_path):
    """They change float sums, so a shard must not depend on who called before."""
    fakes.write_image(tmp_path / "in" / "a.png")
    annotator, shard = make_annotator(tmp_path / "in", tmp_path / "out", threads=2)
    before = torch.get_num_threads()
    try:
        annotator.annotate(shard)

        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
