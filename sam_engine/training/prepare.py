"""Before a run: its sources are packed, unless they were, and then the packed files must be of them."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sam_engine.errors import ConfigError
from sam_engine.training.config import DataConfig, TrainConfig
from sam_engine.training.data.packed import read_made_of
from sam_engine.training.data.packing import held_out_data, pack, pack_held_out
from sam_engine.training.data.provenance import differences, made_of, same_content
from sam_engine.training.process import held_out_path, packed_path
from sam_engine.training.run import refuse_other_settings, write_config

log = logging.getLogger(__name__)


def prepare_run(config: TrainConfig) -> None:
    """Pack what is not packed, and write the settings into the output; nothing is changed on an error.

    Raises:
        ConfigError: The output holds another run, a packed file other data, held-out images are trained on,
            or there is nothing to train on.
        InputError: A source is unusable.
    """
    data = config.data
    if data.stream and data.pack_only:
        raise ConfigError("data.pack_only makes a packed copy, which data.stream does without; give one")
    refuse_other_settings(config)
    for trained, held_out in same_content([*data.sources, *data.region_sources], config.held_out):
        raise ConfigError(
            f"{held_out} of held_out is {trained} of data.sources, and scores on what is trained on mean "
            "nothing; leave it out of one of them"
        )
    if not data.stream:
        _pack_or_compare(partial(pack, data), data, packed_path(config), "data.packed")
    if config.held_out or (data.hold_out is not None and data.sources):
        pack_scored = partial(pack_held_out, data, config.held_out)
        wanted = held_out_data(data, config.held_out)
        _pack_or_compare(pack_scored, wanted, held_out_path(config), "held_out_packed")
    write_config(config)


def _pack_or_compare(pack_to: Callable[[Path], None], data: DataConfig, path: Path, key: str) -> None:
    """Pack what ``data`` names, unless that was done: then raise `ConfigError` if it was of other data."""
    has_sources = bool(data.sources or data.region_sources)
    if not path.exists():
        if not has_sources:
            raise ConfigError(
                "data.sources is empty and there is no packed copy; give one, as in data.sources=[a.tar]"
            )
        pack_to(path)
        return
    if not has_sources:
        return
    there = read_made_of(path)
    if there is None:
        log.warning("%s was packed by an earlier version, does not say of what, and is taken as it is", path)
        return
    changed = differences(there, made_of(data))
    if changed:
        raise ConfigError(
            f"{path} was packed of other data: {'; '.join(changed)}. Choose another output or {key}, or "
            "remove the file to pack anew"
        )
