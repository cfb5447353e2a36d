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
    assert summary["num_bytes"] == path.stat().st_size
    assert summary["max_difference"] <= 1e-3


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    """It is refused before anything is loaded."""
    (tmp_path / "tiny.onnx").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="exists"):
        main(["--output", str(tmp_path / "tiny.onnx")])

    assert (tmp_path / "tiny.onnx").read_bytes() == b"mine"


def test_full_size_is_the_decoder_s(tmp_path: Path) -> None:
    """With the encoder it is a usage error."""
    with pytest.raises(SystemExit) as exit_info:
        main(["--output", str(tmp_path / "tiny.onnx"), "--part", "encoder", "--full-size"])

    assert exit_info.value.code == 2
