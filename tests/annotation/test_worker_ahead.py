"""The worker on a device: the next image is queued before the last one is done."""

import dataclasses

import pytest
import torch

from sam_engine.amg import queued_image
from sam_engine.annotation.leases import Lease
from tests.helpers import fakes, queued_device
from tests.helpers.annotators import make_annotator, records_of, statuses


class _Diary(queued_device.QueuedSegmenter):
    """Writes down what is asked of it; images are known by their height."""

    def __init__(self, model=None):
        super().__init__(model or fakes.TroubledSegmenter())
        self.lines = []

    def encode(self, images):
        self.lines += [f"encode {len(image)}" for image in images]
        embeddings = super().encode(images)
        return [dataclasses.replace(e, features=torch.tensor(self.model.trouble)) for e in embeddings]

    def decode(self, embedding, **prompts):
        self.lines.append(f"decode {embedding.original_size[0]}")
        self.model.trouble = tuple(embedding.features.tolist())
        return super().decode(embedding, **prompts)


TROUBLES = [fakes.HUNGRY, (1, 1, 1), fakes.GREEDY, fakes.NON_FINITE, (1, 1, 1), fakes.HUNGRY, fakes.GREEDY]


def test_work_ahead_on_a_device_gives_the_same_rows(tmp_path):
    """With images that lack memory or numbers, or that are none, beside those that do not."""
    for number, colour in enumerate([*TROUBLES, (1, 1, 1), (1, 1, 1)]):
        fakes.write_image(tmp_path / "in" / f"{number}.png", colour, size=(40 + number, 60))
    (tmp_path / "in" / "7.png").write_bytes(b"")
    settings = {"amg__points_per_side": 4, "amg__points_per_batch": 16}
    report, expected = statuses(tmp_path / "in", tmp_path / "cpu", **settings)
    with queued_device.watch():
        ahead, found = statuses(tmp_path / "in", tmp_path / "device", model=_Diary(), **settings)

    assert found == expected == ["ok", "ok", "oom", "model_nonfinite", "ok", "ok", "oom", "unsupported", "ok"]
    assert records_of(tmp_path / "device") == records_of(tmp_path / "cpu")
    assert ahead.notes == report.notes


@pytest.mark.parametrize(("careful", "expected"), [(False, "ederdrerdrrr"), (True, "edrredrredrr")])
def test_next_image_is_queued_before_the_last_one_is_done(tmp_path, monkeypatch, careful, expected):
    """It is encoded, the last one's measures are read, it is decoded, the last one's outlines are read.

    Not if the lease is careful.
    """
    fakes.write_images(tmp_path / "in", 3)
    model, read = _Diary(), queued_image.Download.wait
    monkeypatch.setattr(queued_image.Download, "wait", lambda self: model.lines.append("read") or read(self))
    annotator, shard = make_annotator(tmp_path / "in", tmp_path / "out", model=model)
    with queued_device.watch():
        list(annotator.work(Lease(shard=shard, careful=careful)))

    assert "".join(line[0] for line in model.lines) == expected


def test_failure_while_two_images_are_in_hand_says_so(tmp_path):
    """The last word before an image that raises is about it; once its neighbour is done, about it alone."""
    for number, colour in enumerate([(1, 1, 1), (1, 1, 1), fakes.RAISING, (1, 1, 1)]):
        fakes.write_image(tmp_path / "in" / f"{number}.png", colour)
    annotator, shard = make_annotator(tmp_path / "in", tmp_path / "out", model=_Diary())
    events = []
    with queued_device.watch(), pytest.raises(IndexError, match="no such thing"):
        events.extend(annotator.work(Lease(shard=shard)))

    said = [(event.image_id, event.num_done, event.is_alone) for event in events]
    assert said == [(0, 0, True), (1, 0, False), (2, 1, False), (2, 2, True)]


def test_device_that_breaks_while_two_images_are_in_hand_blames_neither(tmp_path, monkeypatch):
    """What the host is told when it reads one image may come of the other's work."""
    fakes.write_images(tmp_path / "in", 3)
    annotator, shard = make_annotator(tmp_path / "in", tmp_path / "out", model=_Diary())
    monkeypatch.setattr(queued_image.Download, "wait", _broken)
    events = []
    with queued_device.watch(), pytest.raises(RuntimeError, match="illegal memory access"):
        events.extend(annotator.work(Lease(shard=shard)))

    assert [(event.image_id, event.is_alone) for event in events] == [(0, True), (1, False)]


def test_memory_that_lacks_beside_another_image_is_no_images_fault(tmp_path):
    """An image that can be encoded or decoded only by itself gets its masks all the same."""
    fakes.write_images(tmp_path / "in", 4)
    annotator, shard = make_annotator(tmp_path / "in", tmp_path / "out", model=_Cramped())
    with queued_device.watch():
        report = annotator.annotate(shard)
    calm, shard = make_annotator(tmp_path / "in", tmp_path / "calm")
    calm.annotate(shard)

    assert report.notes == ()
    assert records_of(tmp_path / "out") == records_of(tmp_path / "calm")


class _Cramped(_Diary):
    """Has memory for an image if the one before it was decoded, and read, since."""

    def encode(self, images):
        if self.lines and self.lines[-1].startswith("decode"):
            self.lines.append("full")
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().encode(images)


def _broken(self):
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
