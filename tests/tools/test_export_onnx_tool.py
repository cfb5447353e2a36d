"""python -m tools.export_onnx: the bundled model as a file, and what is refused."""

import json
from pathlib import Path

import pytest

from sam_engine.errors import ConfigError
from tools.export_onnx import main


def test_the_bundled_decoder_is_written_and_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its logits, of tens, are torch's to 1e-3."""
    pytest.importorskip("onnxruntime", reason="comes with the extra onnx")
    path = tmp_path / "tiny.onnx"
    assert main(["--model", "tiny", "--output", str(path), "--json"]) == 0

    summary = json.loads(capsys.readouterr().out)
    assert summary["num_bytes"] == {str(path): path.stat().st_size}
    assert summary["max_difference"] <= 1e-3


@pytest.mark.parametrize(("name", "flags"), [("tiny.onnx", []), ("tiny-prompt.onnx", ["--split"])])
def test_a_file_that_is_there_stays(tmp_path: Path, name: str, flags: list[str]) -> None:
    """It is refused before anything is loaded."""
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(ConfigError, match=f"{name} exists"):
        main(["--output", str(tmp_path / "tiny.onnx"), *flags])

    assert (tmp_path / name).read_bytes() == b"mine"


@pytest.mark.parametrize(
    "flags",
    [["--part", "encoder", "--full-size"], ["--part", "encoder", "--split"], ["--split", "--full-size"]],
)
def test_flags_of_other_parts_are_usage_errors(tmp_path: Path, flags: list[str]) -> None:
    """Exit 2."""
    with pytest.raises(SystemExit) as exit_info:
        main(["--output", str(tmp_path / "tiny.onnx"), *flags])

    assert exit_info.value.code == 2
