"""Every setting of every program can be given on its command line."""

import dataclasses
import json
import re
from collections.abc import Iterator
from operator import attrgetter
from typing import Any, get_type_hints

import pytest

from pipelines import auto_annotate, evaluate, loop, train
from pipelines.config import load
from sam_engine.data_engine import SET_BY_THE_LOOP
from sam_engine.errors import ConfigError

COMMANDS = [program.COMMAND for program in (auto_annotate, evaluate, train, loop)]
TOGETHER = {
    "accumulate": 2,
    "num_workers": 2,
    "images_per_step": 8 * 2 * 2,
    "image_size": 64,
    "sources": ["a.tar"],
    "region_sources": ["b.tar", "c.tar"],
    "images": [None, "photos", None],
    "weights": [1.0, 2.0, 3.0],
    "labelled": ["a.tar", "b.tar"],
    "labelled_weights": [3.0, 1.0],
    "truth": ["a.tar", "b.json", "c.tar"],
    "parts": ["grid"],
    "stages": ["manual", "auto"],
    "annotator": "oracle",  # there is no other
    "step_decay_at": [0.5],
    "points_per_row": 3,
    "points_per_column": 5,
    "blur": "boxes",
    "boxes": "boxes.csv",
}
"""Values that must fit each other, by the last part of the setting's name."""
ALONE = {"amg.prompts", "video.every"}
"""Settings that are refused beside others."""


def settings(config_class: type, plain: frozenset[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name of every setting and a value that is not its default."""
    defaults = config_class()
    hints = get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        default, key = getattr(defaults, field.name), prefix + field.name
        if key in {f"train.{name}" for name in SET_BY_THE_LOOP}:
            continue
        if dataclasses.is_dataclass(default):
            yield from settings(type(default), plain, f"{key}.")
        else:
            value = TOGETHER.get(field.name)
            if value is None:
                value = another(defaults, field.name, str(hints[field.name]), key in plain)
            yield key, value


def another(defaults: Any, name: str, hint: str, is_plain: bool) -> Any:
    """Return a value that the class accepts in place of the default."""
    default = getattr(defaults, name)
    if hint.startswith("list"):
        candidates: list[Any] = [["a.tar"], [3, 4], [0.5]] if "int" not in hint else [[3, 4], [3]]
    elif "bool" in hint:
        candidates = [not default]
    elif "int" in hint or "float" in hint:
        number = default if default is not None else 1
        candidates = [number + 1, number * 2, number * 9 // 8, number / 2, number - 1, 0.5]
        candidates = [int(c) if "int" in hint else float(c) for c in candidates]
    else:
        candidates = ["a, (b)" if is_plain else "other"]
    for candidate in candidates:
        try:
            dataclasses.replace(defaults, **{name: candidate})
        except ConfigError as error:
            if isinstance(candidate, str) and len(candidates) == 1:
                candidates += re.findall(r"[\w-]+", str(error).partition(" must be ")[2])  # one of a, b
            continue
        if candidate != default:
            return candidate
    raise AssertionError(f"no value found for {name}; add one to TOGETHER")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_setting_can_be_set(command):
    """Each gets a value that is not its default, and has it afterwards."""
    values = dict(settings(command.config_class, command.plain_texts))
    together = [{key: value for key, value in values.items() if key not in ALONE}]
    for given in together + [{key: values[key]} for key in ALONE & values.keys()]:
        texts = {
            key: value if isinstance(value, str) and key in command.plain_texts else json.dumps(value)
            for key, value in given.items()
        }
        config = load(command, [f"{key}={text}" for key, text in texts.items()])

        assert {key: attrgetter(key)(config) for key in given} == given


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_model_is_chosen_by_its_name(command):
    """model=vit_b does so in every program."""
    model = load(command, ["model=vit_b"]).model

    assert getattr(model, "name", model) == "vit_b"


def test_an_unknown_model_is_refused_by_training_at_once():
    """Before anything is packed."""
    with pytest.raises(ConfigError, match=r"model must be one of tiny, vit_b, vit_l, vit_h, got 'vit_x'"):
        load(train.COMMAND, ["model=vit_x"])
