"""How the thread of a training process is set up."""

import pytest
import torch

from sam_engine.errors import ConfigError
from sam_engine.training import process
from sam_engine.training.config import TrainConfig


def test_numbers_next_to_nothing_are_nothing_while_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where momentum decays into denormals, steps take twice as long. Afterwards all is as before."""
    seen = []

    def look(_: TrainConfig) -> None:
        seen.append(float(torch.tensor(1e-39) * 1))
        raise ConfigError("looked")

    monkeypatch.setattr(process, "open_images", look)
    with pytest.raises(ConfigError, match="looked"):
        process.train_in_process(TrainConfig(threads=torch.get_num_threads()))

    assert seen == [0]
    assert float(torch.tensor(1e-39) * 1) > 0
