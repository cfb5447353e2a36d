"""What a run will do, before it does it."""

import pytest

from pipelines.auto_annotate import COMMAND
from pipelines.config import load
from sam_engine.annotation.plan import open_run, prepare

FINGERPRINTS = {
    "tiny": (
        ["model=tiny", "amg=fast", "amg.pred_iou_thresh=0.5", "amg.stability_score_thresh=0.75"],
        "4008b80b3e89eb674e105ceee5c8ba5a6fac35cb0fdbe42f740a493121369ec5",
    ),
    "vit_b": (["model=vit_b"], "c343a375b7ace90095147e366e9a6980110c2d809df1417a78a9fd74bfb03bc9"),
    "vit_h": (
        [
            "model=vit_h",
            "amg=sa1b",
            "model.precision=bf16",
            "decode.strict=false",
            "executor.threads_per_worker=2",
            "shard_size=7",
        ],
        "14c29bd926ba8b310202259427814ae90145d46376449b4de8cdd481601f4d7b",
    ),
}
"""As version 0.1.0 made them."""


@pytest.mark.parametrize("case", FINGERPRINTS)
def test_fingerprints_stay_what_they_were(case, tmp_path):
    """A dataset that an earlier version began is gone on with."""
    arguments, expected = FINGERPRINTS[case]
    (tmp_path / "in").mkdir()
    for number in range(12):
        (tmp_path / "in" / f"{number:02d}.jpg").write_bytes(b"x" * (number + 1))
    arguments = [*arguments, f"input={tmp_path}/in", f"output={tmp_path}/out", "model.checkpoint=random"]

    assert open_run(prepare(load(COMMAND, arguments))).info.fingerprint == expected
