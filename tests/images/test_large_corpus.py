"""A folder of every kind of file, sound and damaged: what Pillow and tifffile see decides what is right."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipelines.auto_annotate import run
from sam_engine.config import DecodeConfig
from sam_engine.dataset.reader import open_dataset
from sam_engine.errors import ImageError
from sam_engine.images.decode import decode_image
from sam_engine.inputs.open import open_input
from sam_engine.inputs.source import Account
from sam_engine.structures import ImageStatus
from tests.corpus.kinds import KINDS
from tests.corpus.large_corpus import TREATMENTS, CorpusFile, corpus
from tests.corpus.oracle import seen
from tests.helpers import fakes

PHOTOS = Path(__file__).parents[2].parent / "shared" / "photos"
FEW, ALL = 2 * len(KINDS), 2_000
DAMAGED = (ImageStatus.TRUNCATED, ImageStatus.CORRUPT)
STARTS_ONLY = {"heic sequence", "psd", "jpeg xl", "raw file", "openexr"}
"""Kinds of which we can make only the first bytes: no other program opens these files."""
OTHERWISE_READ = 0.01
"""So many of the damaged files may decode to other pixels than there: some damage leaves no trace."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What we and what others make of a file."""

    file: CorpusFile
    status: ImageStatus
    pixels: np.ndarray | None
    oracle: np.ndarray | None

    @property
    def agrees(self) -> bool:
        """Whether both see the same picture; Pillow and we round transparency differently."""
        ours, theirs = self.pixels, self.oracle
        if ours is None or theirs is None or ours.shape != theirs.shape:
            return False
        return int(np.abs(ours.astype(int) - theirs).max()) <= 1


def judge(file: CorpusFile) -> Verdict:
    try:
        pixels, status = decode_image(file.data, DecodeConfig()).pixels, ImageStatus.OK
    except ImageError as error:
        pixels, status = None, error.status
    return Verdict(file=file, status=status, pixels=pixels, oracle=seen(file.data))


@pytest.fixture(scope="module", params=[FEW, pytest.param(ALL, marks=pytest.mark.slow)])
def verdicts(request) -> list[Verdict]:
    photos = PHOTOS if request.param == ALL and PHOTOS.is_dir() else None
    return [judge(file) for file in corpus(request.param, photos)]


def chosen(verdicts: list[Verdict], *treatments: str, is_read: bool) -> list[Verdict]:
    return [one for one in verdicts if one.file.treatment in treatments and one.file.is_read is is_read]


def names(verdicts: list[Verdict]) -> list[tuple[str, str]]:
    return [(verdict.file.name, verdict.status.value) for verdict in verdicts]


def test_corpus_has_every_kind_and_treatment(verdicts):
    """More than forty kinds of container and layout, each in at least two states."""
    states = Counter(kind for kind, _ in {(one.file.kind, one.file.treatment) for one in verdicts})

    assert len(KINDS) > 40
    assert all(states[kind] >= 2 for kind in KINDS)
    assert {one.file.treatment for one in verdicts} == set(TREATMENTS)


def test_sound_files_are_read_as_others_see_them(verdicts):
    """No sound file is called damaged, whatever its name; it has the pixels that Pillow or tifffile sees."""
    sound = chosen(verdicts, "whole", "misnamed", is_read=True)

    assert names([one for one in sound if one.oracle is None]) == []
    assert names([one for one in sound if one.status is not ImageStatus.OK or not one.agrees]) == []


def test_sound_files_of_other_kinds_are_unsupported(verdicts):
    """A file that others open and we do not is never called damaged."""
    sound = chosen(verdicts, "whole", "misnamed", is_read=False)

    assert {one.file.kind for one in sound if one.oracle is None} <= STARTS_ONLY
    assert names([one for one in sound if one.status is not ImageStatus.UNSUPPORTED]) == []


def test_cut_files_are_damaged_or_lost_nothing(verdicts):
    """A file that was cut is read only where others too still see its whole first picture."""
    cut = chosen(verdicts, "cut", is_read=True)
    read = [one for one in cut if one.status is ImageStatus.OK]

    assert names([one for one in cut if one.status not in (*DAMAGED, ImageStatus.OK)]) == []
    assert names([one for one in read if not one.agrees]) == []
    assert names([one for one in read if not np.array_equal(one.oracle, seen(one.file.whole))]) == []


def test_damaged_files_are_refused_or_read_as_others_do(verdicts):
    """What damage does to a file that still decodes, it does in every program."""
    flipped = chosen(verdicts, "flipped", is_read=True)
    otherwise = [one for one in flipped if one.status is ImageStatus.OK and not one.agrees]

    assert len(otherwise) <= OTHERWISE_READ * len(flipped), names(otherwise)


def test_every_file_is_a_row_or_counted(verdicts, tmp_path):
    """A run has a row for each file, with the status found here, or counts it by reason; isolated, too."""
    folder = tmp_path / "in"
    folder.mkdir()
    for one in verdicts:
        (folder / one.file.name).write_bytes(one.file.data)
    account = Account()
    listed = {file.path.decode() for file in open_input(str(folder)).iter_files(account)}
    settings = {"max_failed_fraction": 1.0, "decode__isolate": True}
    code = run(
        fakes.run_settings(input=str(folder), output=str(tmp_path / "out"), **settings),
        fakes.make_disc_segmenter,
    )
    failures = {
        row.path.decode(): row.status
        for row in open_dataset(tmp_path / "out").records()
        if row.status.is_failure
    }
    expected = {one.file.name: one.status for one in verdicts if one.status is not ImageStatus.OK}

    assert code == 0
    assert len(listed) + sum(account.left_out.values()) == len(verdicts)
    assert failures == {name: status for name, status in expected.items() if name in listed}
