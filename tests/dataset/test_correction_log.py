"""The log of corrections on disk: what is said is kept whole, in order, and nothing else is believed."""

import errno
import json
import os
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from sam_engine.dataset.correction_log import CorrectionLog, from_line, read_corrections, to_line
from sam_engine.dataset.corrections import Operation, Prompt, PromptKind, Stage
from sam_engine.errors import InputError, StorageError
from tests.dataset.test_corrections import COUNTS_DRAWN, DRAWN, ID_1, ID_2, NOON, correction


def test_what_a_log_says_is_read_back(tmp_path):
    """Every operation comes back as it was said, under the name of who said it, in order."""
    log = CorrectionLog(tmp_path, by="Ada Lovelace é")
    added = log.add(3, DRAWN.shape, COUNTS_DRAWN)
    log.replace(3, ID_1, DRAWN.shape, COUNTS_DRAWN)
    log.delete(3, added)
    log.accept(3, ID_2)
    log.accept(9)
    found = read_corrections(tmp_path)

    assert [(c.operation, c.mask_id, c.counts) for c in found[3]] == [
        (Operation.ADD, added, COUNTS_DRAWN),
        (Operation.REPLACE, ID_1, COUNTS_DRAWN),
        (Operation.DELETE, added, None),
        (Operation.ACCEPT, ID_2, None),
    ]
    assert [(c.operation, c.mask_id) for c in found[9]] == [(Operation.ACCEPT, None)]
    assert {c.by for c in found[3]} == {"Ada Lovelace é"}


def test_a_line_is_as_documented():
    """Keys, their order and their types are those of docs/dataset_format.md."""
    line = to_line(correction(Operation.REPLACE, ID_1, DRAWN))

    assert line == (
        b'{"version":1,"time":"2026-05-01T12:00:00.000000+00:00","by":"Ada","operation":"replace",'
        b'"image_id":3,"mask_id":196608,"segmentation":{"size":[24,32],"counts":"%b"}}\n'
        % COUNTS_DRAWN.encode()
    )


def test_what_version_1_does_not_know_makes_a_line_version_2():
    """Keys as documented, and back again; a plain line stays version 1."""
    said = replace(
        correction(Operation.ADD, "new", DRAWN),
        act="a1",
        kind="merge",
        label="cup",
        stage=Stage.SEMI,
        time_s=1.5,
        prompts=(
            Prompt(kind=PromptKind.POINT, coords=(3.0, 4.5)),
            Prompt(kind=PromptKind.STROKE, foreground=False),
        ),
    )
    document = json.loads(to_line(said))

    assert from_line(to_line(said)) == said
    assert document["version"] == 2
    assert list(document)[-6:] == ["act", "kind", "label", "stage", "time_s", "prompts"]
    assert document["prompts"][1] == {"kind": "stroke", "coords": [], "foreground": False}
    assert json.loads(to_line(correction(Operation.LABEL, ID_1)))["version"] == 2


def test_each_writer_has_a_file_of_its_own(tmp_path):
    """Two logs begun in the same second do not share a file, and neither touches the other's."""
    one, other = CorrectionLog(tmp_path, by="Ada"), CorrectionLog(tmp_path, by="Ben")
    one.accept(1)
    before = (tmp_path / one.name).read_bytes()
    other.accept(1)

    assert one.name != other.name
    assert (tmp_path / one.name).read_bytes() == before
    assert sorted(c.by for c in read_corrections(tmp_path)[1]) == ["Ada", "Ben"]


def test_a_line_is_there_at_once(tmp_path):
    """A reader sees it as soon as the call returns."""
    CorrectionLog(tmp_path, by="Ada").delete(3, ID_1)

    assert len(read_corrections(tmp_path)[3]) == 1


def test_a_file_that_has_grown_is_left_alone(tmp_path, monkeypatch):
    """Another is begun, so that the cost of an act is bounded; no line is lost."""
    monkeypatch.setattr("sam_engine.dataset.correction_log.FILE_BYTES", 400)
    log = CorrectionLog(tmp_path, by="Ada")
    for image_id in range(10):
        log.accept(image_id)

    assert len(list((tmp_path / "corrections").iterdir())) == 3
    assert sorted(read_corrections(tmp_path)) == list(range(10))


def test_an_act_of_several_lines_is_written_in_one_step(tmp_path, monkeypatch):
    """A storage that fails leaves none of them, and what was said before; saying it again says it once."""
    log = CorrectionLog(tmp_path, by="Ada")
    log.accept(9)
    lines = [log.line(Operation.DELETE, 3, mask_id, act="a1", kind="reject") for mask_id in (ID_1, ID_2)]
    with monkeypatch.context() as broken:
        broken.setattr(os, "write", full_disk)
        with pytest.raises(StorageError):
            log.write(lines)
        left = read_corrections(tmp_path)
    log.write(lines)

    assert list(left) == [9]
    assert [line.mask_id for line in read_corrections(tmp_path)[3]] == [ID_1, ID_2]


def test_a_first_line_that_may_be_there_is_not_said_twice(tmp_path, monkeypatch):
    """A folder that cannot be synced leaves the new file in doubt: the next call writes that one anew."""
    log = CorrectionLog(tmp_path, by="Ada")
    added = log.line(Operation.ADD, 3, "new", size=DRAWN.shape, counts=COUNTS_DRAWN)
    sync = os.fsync
    with monkeypatch.context() as broken:
        broken.setattr(
            os, "fsync", lambda fd: sync(fd) if stat.S_ISREG(os.fstat(fd).st_mode) else full_disk()
        )
        (tmp_path / "corrections").mkdir()
        (tmp_path / "_meta/tmp").mkdir(parents=True)
        with pytest.raises(StorageError):
            log.write([added])
    log.write([added])

    assert [line.mask_id for line in read_corrections(tmp_path)[3]] == ["new"]


def test_times_run_forward_whatever_the_clock_does(tmp_path):
    """A writer's line is later than its last, and than what it knows of others: added masks come first."""
    ahead = datetime.now(UTC) + timedelta(hours=1)
    log = CorrectionLog(tmp_path, by="Ada", after=ahead)
    added = log.add(3, DRAWN.shape, COUNTS_DRAWN)
    log.delete(3, added)
    later = log.now(ahead + timedelta(hours=1))

    first, second = read_corrections(tmp_path)[3]
    assert ahead < first.time < second.time
    assert later > ahead + timedelta(hours=1)


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_torn_last_line_is_left_out(tmp_path, cut, caplog):
    """A writer that died in the middle of a line loses that line alone, and the log says so."""
    log = CorrectionLog(tmp_path, by="Ada")
    log.delete(3, ID_1)
    log.delete(3, ID_2)
    path = tmp_path / log.name
    path.write_bytes(path.read_bytes()[:-cut])

    assert [c.mask_id for c in read_corrections(tmp_path)[3]] == [ID_1]
    assert "not finished" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 3}, "version is 3; 1 and 2 are read here"),
        ({"operation": "paint"}, "paint"),
        ({"image_id": "3"}, "image_id is '3'"),
        ({"mask_id": [1]}, "mask_id"),
        ({"mask_id": None}, "replace needs a mask_id"),
        ({"time": "2026-05-01T12:00:00"}, "without an offset from UTC"),
        ({"time": "noon"}, "noon"),
        ({"by": " "}, "by is empty"),
        ({"operation": "delete"}, "delete needs no segmentation"),
        ({"operation": "add"}, "mask_id of an added mask is a text"),
        ({"segmentation": {"size": [24, 32], "counts": "000"}}, "the runs do not fit"),
        ({"segmentation": {"size": [24], "counts": "0"}}, "unpack"),
        ({"segmentation": {"size": [24, 32], "counts": 5}}, "no correction"),
        ({"time_s": -1}, "time_s is -1"),
        ({"stage": "late"}, "late"),
        ({"label": "a\nb"}, "label is"),
        ({"act": ""}, "act is ''"),
        ({"prompts": [{"kind": "point", "coords": [1], "foreground": True}]}, "2 coordinates"),
        (
            {"prompts": [{"kind": "box", "coords": [0, 0, 1, float("inf")], "foreground": True}]},
            "4 coordinates",
        ),
        ({"operation": "undo", "mask_id": None, "segmentation": None}, "undo needs an act"),
    ],
)
def test_any_other_malformed_line_is_refused(tmp_path, change, message):
    """File and line are named; run lengths are checked before anybody decodes them."""
    good = to_line(correction(Operation.REPLACE, ID_1, DRAWN))
    bad = json.dumps(json.loads(good) | change).encode()
    (tmp_path / "corrections").mkdir()
    (tmp_path / "corrections/a.jsonl").write_bytes(good + bad + b"\n")

    with pytest.raises(InputError, match=rf"a\.jsonl, line 2: .*{message}"):
        read_corrections(tmp_path)


def test_a_line_that_is_no_json_is_refused(tmp_path):
    """Also if it is no object, or no text."""
    (tmp_path / "corrections").mkdir()
    for line in (b"{", b"[]", b"\xff", b""):
        (tmp_path / "corrections/a.jsonl").write_bytes(line + b"\n")
        with pytest.raises(InputError, match=r"a\.jsonl, line 1"):
            read_corrections(tmp_path)


def test_files_are_merged_by_time(tmp_path):
    """The order is that of the times, whatever file and zone a line is in."""
    (tmp_path / "corrections").mkdir()
    lines = [to_line(correction(Operation.ACCEPT, ID_1, minutes=m)) for m in (0, 10, 20, 30)]
    lines[1] = lines[1].replace(b"12:10:00.000000+00:00", b"14:10:00.000000+02:00")
    (tmp_path / "corrections/b.jsonl").write_bytes(lines[0] + lines[2])
    (tmp_path / "corrections/a.jsonl").write_bytes(lines[1] + lines[3])

    minutes = [round((c.time - NOON).total_seconds() / 60) for c in read_corrections(tmp_path)[3]]
    assert minutes == [0, 10, 20, 30]


def test_a_dataset_without_a_log_has_no_corrections(tmp_path):
    """There is nothing to read and nothing is made."""
    assert read_corrections(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []
