"""tools.bench.browser_decoder: what it refuses, and how inputs are sent to a page."""

import numpy as np
import pytest

from sam_engine.errors import ConfigError
from tools.bench import browser_decoder


def test_no_runs_are_refused(tmp_path):
    """There would be nothing to print."""
    with pytest.raises(ConfigError, match="--runs is 0"):
        browser_decoder.main([str(tmp_path), "--runs", "0"])


def test_what_must_be_fetched_first_is_said(tmp_path, monkeypatch):
    """Before anything is loaded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="--fetch-runtime"):
        browser_decoder.main([str(tmp_path)])


def test_prompts_are_sent_and_images_are_not():
    """An embedding of noise is as good where it is needed, and 4 MB less to send."""
    inputs = {"point_labels": np.float32([[1, -1]]), "image_tokens": np.zeros((1, 64, 32), np.float32)}

    assert browser_decoder._sent(inputs) == {
        "point_labels": {"shape": [1, 2], "values": [1.0, -1.0]},
        "image_tokens": {"shape": [1, 64, 32], "values": None},
    }
