"""tools.bench.onnx_prompts: times of the whole decoder and of the split one."""

import pytest

from sam_engine.errors import ConfigError
from tests.helpers.reference_models import make_reduced_tiny
from tools.bench.onnx_prompts import main, measure


@pytest.mark.slow
def test_every_graph_is_timed_as_often_as_asked():
    """In milliseconds above 0."""
    pytest.importorskip("onnxruntime", reason="comes with the extra onnx")
    times = measure(make_reduced_tiny(image_size=64), num_runs=2, num_threads=1)

    assert [len(ms) for ms in times.values()] == [2, 2, 2]
    assert min(min(ms) for ms in times.values()) > 0


def test_no_runs_are_refused():
    """There would be nothing to print."""
    with pytest.raises(ConfigError, match="--runs is 0"):
        main(["--runs", "0"])
