"""A setting of another type than its field's is one ConfigError with its key, whoever makes the settings."""

import dataclasses
import re

import pytest

from sam_engine.config import (
    AmgConfig,
    AutoAnnotateConfig,
    DecodeConfig,
    ExecutorConfig,
    LogConfig,
    ModelConfig,
)
from sam_engine.data_engine import LoopConfig
from sam_engine.errors import ConfigError
from sam_engine.evaluation.config import EvaluateConfig
from sam_engine.training.config import DataConfig, TrainConfig

PREFIXES = {
    ModelConfig: "model.",
    AmgConfig: "amg.",
    DecodeConfig: "decode.",
    ExecutorConfig: "executor.",
    LogConfig: "log.",
    AutoAnnotateConfig: "",
    EvaluateConfig: "",
    DataConfig: "data.",
    TrainConfig: "",
    LoopConfig: "",
}
FIELDS = [(config, field.name) for config in PREFIXES for field in dataclasses.fields(config)]


@pytest.mark.parametrize(("config", "name"), FIELDS, ids=lambda each: getattr(each, "__name__", each))
def test_every_setting_is_of_its_type(config, name):
    """What fits no field at all is refused at each, before anything compares it with a range."""
    with pytest.raises(ConfigError, match=rf"^{re.escape(PREFIXES[config] + name)} must be "):
        config(**{name: {1: object}})


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (DecodeConfig, {"max_pixels": 1e6}, "decode.max_pixels must be an int, got 1000000.0"),
        (DecodeConfig, {"strict": "no"}, "decode.strict must be true or false, got 'no'"),
        (ExecutorConfig, {"num_workers": "2"}, "executor.num_workers must be an int, got '2'"),
        (
            ExecutorConfig,
            {"threads_per_worker": None},
            "executor.threads_per_worker must be an int, got None",
        ),
        (AutoAnnotateConfig, {"limit": True}, "limit must be an int, got True"),
        (AutoAnnotateConfig, {"model": "tiny"}, "model must be ModelConfig, got 'tiny'"),
        (TrainConfig, {"seed": 1.5}, "seed must be an int, got 1.5"),
        (EvaluateConfig, {"truth": "eval.tar"}, "truth must be a list, each a text, got 'eval.tar'"),
        (LoopConfig, {"seeds": [0, "1"]}, "seeds must be a list, each an int, got"),
    ],
)
def test_the_message_says_what_would_do(config, settings, message):
    """Floats where numbers are counted, words, None, a single thing for a list."""
    with pytest.raises(ConfigError, match=re.escape(message)):
        config(**settings)


def test_numbers_of_any_kind_will_do():
    """A count may be numpy's, a fraction a whole number; None where a field says so."""
    import numpy as np

    config = AutoAnnotateConfig(limit=np.int64(3), sample=1, shard_size=None)

    assert (config.limit, config.sample) == (3, 1)
